"""Block Lanczos against exact spectra and against the randomised SVD at the same number of products."""

from __future__ import annotations

import pytest
import torch
from toy_encoders import LayerNormEncoder

import minoritybench
from minoritybench.errors import BadInputError
from minoritybench.scoring import exact_scores
from minoritybench.scoring.jacobian import JacobianGraph
from minoritybench.scoring.lanczos import Lanczos, lanczos_top_k
from minoritybench.scoring.rsvd import Rsvd, range_basis, top_k


def test_full_space_is_exact() -> None:
    encoder = LayerNormEncoder(48, 16)
    images = torch.rand(3, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    probes = torch.randn(3, 3, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = lanczos_top_k(JacobianGraph(encoder, images), probes, Lanczos(k=9, block=3, blocks=5))
    exact = exact_scores(encoder, images).sigma[:, :9]
    assert torch.allclose(found.sigma, exact, rtol=1e-8)
    assert (found.left @ found.left.transpose(1, 2) - torch.eye(9)).abs().max() < 1e-10


def test_beats_the_randomised_svd_at_equal_products(digits: torch.Tensor) -> None:
    """Top-9 sum on the digits ViT: 66 products of RSVD(9, 2, 2) against 63 of Lanczos 3 x 10 and its start."""
    encoder = minoritybench.load_encoder("digits-ijepa", dtype="float64")
    prepared = encoder.prepare(digits[:8].double())
    graph = JacobianGraph(encoder, prepared)
    exact = exact_scores(encoder, prepared).sigma[:, :9].log().sum(dim=1)
    probes = torch.randn(8, 11, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    rsvd = top_k(graph, range_basis(graph, probes, Rsvd(9, 2, 2).q), 9).sigma.log().sum(dim=1)
    krylov = lanczos_top_k(graph, probes[:, :3], Lanczos(9, 3, 10)).sigma.log().sum(dim=1)
    assert ((exact - krylov) >= -1e-9).all()
    assert (exact - krylov).max() < 0.1 * (exact - rsvd).max()


def test_too_small_a_space_is_refused() -> None:
    with pytest.raises(BadInputError, match="block Lanczos"):
        Lanczos(k=9, block=2, blocks=4)
