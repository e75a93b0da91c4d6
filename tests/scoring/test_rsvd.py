"""Randomised SVD: products, orthonormality, interlacing, independence of batching."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toy_encoders import LayerNormEncoder

import minoritybench
from minoritybench.errors import BadInputError
from minoritybench.scoring import Rsvd, exact_scores, rsvd_scores
from minoritybench.scoring.jacobian import JacobianGraph
from minoritybench.scoring.rsvd import range_basis, top_k


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_products_equal_those_of_the_full_jacobian(images: Tensor) -> None:
    graph = JacobianGraph(LayerNormEncoder(48, 16), images)
    jacobian = graph.rows()
    w, v = torch.randn(4, 5, 16, dtype=torch.float64), torch.randn(4, 5, 48, dtype=torch.float64)
    assert torch.allclose(graph.vjp(w), w @ jacobian, atol=1e-12)
    assert torch.allclose(graph.jvp(v), v @ jacobian.transpose(1, 2), atol=1e-12)


def test_basis_is_orthonormal_and_sharpens_to_the_top_subspace(images: Tensor) -> None:
    graph = JacobianGraph(LayerNormEncoder(48, 16), images)
    probes = torch.randn(4, 5, 48, dtype=torch.float64)
    basis = range_basis(graph, probes, q=40)
    assert torch.allclose(
        basis.transpose(1, 2) @ basis, torch.eye(5, dtype=torch.float64).expand(4, -1, -1), atol=1e-10
    )
    exact = torch.linalg.svdvals(graph.rows())[:, :3]
    assert torch.allclose(top_k(graph, basis, 3).sigma, exact, rtol=1e-6)


def test_top_k_sum_never_exceeds_the_exact_one(images: Tensor) -> None:
    encoder = LayerNormEncoder(48, 16)
    exact = exact_scores(encoder, images).sigma
    for k in (1, 3, 6):
        for q in (0, 1, 2):
            found = rsvd_scores(encoder, images, Rsvd(k, 2, q), seed=0, indices=range(4))
            assert (found <= exact[:, :k].log().sum(dim=1) + 1e-9).all()


def test_all_directions_probed_give_the_exact_top_k(images: Tensor) -> None:
    encoder = LayerNormEncoder(48, 16)
    found = rsvd_scores(encoder, images, Rsvd(3, 13, 0), seed=0, indices=range(4))
    assert torch.allclose(found, exact_scores(encoder, images).sigma[:, :3].log().sum(dim=1), atol=1e-9)


def test_rsvd_scores_do_not_depend_on_batching(digits: Tensor) -> None:
    encoder = minoritybench.load_encoder("digits-jepa")
    prepared = encoder.prepare(digits[:20])
    whole = rsvd_scores(encoder, prepared, Rsvd(), seed=7, indices=range(20))
    parts = [
        rsvd_scores(encoder, prepared[i : i + 3], Rsvd(), seed=7, indices=range(i, min(i + 3, 20)))
        for i in range(0, 20, 3)
    ]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(rsvd_scores(encoder, prepared, Rsvd(), seed=8, indices=range(20)), whole)


def test_impossible_ranks_are_refused() -> None:
    with pytest.raises(BadInputError, match="k >= 1"):
        Rsvd(k=0)
