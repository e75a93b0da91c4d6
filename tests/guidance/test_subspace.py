"""What the range finders capture, cold and warm."""

from __future__ import annotations

import torch
from toy_encoders import LayerNormEncoder

from minoritybench.encoders.base import null_basis
from minoritybench.guidance.subspace import RangeFinder, published_basis
from minoritybench.scoring import Rsvd, exact_scores
from minoritybench.scoring.jacobian import JacobianGraph
from minoritybench.scoring.rsvd import range_basis


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


ENCODER = LayerNormEncoder(48, 20)
HERE = draws(6, 3, 4, 4)
EXACT = exact_scores(ENCODER, HERE).sigma[:, :3].log().sum(dim=1)
PROBES = draws(6, 5, 48, seed=1)


def missed(finder: RangeFinder, start: torch.Tensor) -> torch.Tensor:
    found = finder.find(ENCODER, HERE, start)
    assert found.sigma.shape[1] == finder.rsvd.probes
    gap = EXACT - found.sigma[:, :3].log().sum(dim=1)
    assert (gap > -1e-9).all()
    return gap


def test_keeping_all_blocks_captures_more_from_the_same_start() -> None:
    for q in (1, 2):
        rsvd, lanczos = (missed(RangeFinder(Rsvd(3, 2, q), kind), PROBES) for kind in ("rsvd", "lanczos"))
        assert (lanczos <= rsvd + 1e-9).all()
        assert lanczos.mean() < 0.5 * rsvd.mean()


def test_no_block_goes_beyond_the_room_beside_the_null_directions() -> None:
    """18 directions are left of 20: three blocks of eight would be 24."""
    found = RangeFinder(Rsvd(3, 5, 2), "lanczos").find(ENCODER, HERE, draws(6, 8, 48, seed=2))
    assert torch.allclose(found.sigma, exact_scores(ENCODER, HERE).sigma[:, :8], rtol=1e-6)
    nulls = null_basis(ENCODER, ENCODER(HERE))
    assert nulls is not None
    assert (found.left @ nulls).abs().max() < 1e-9


def test_a_start_from_nearby_captures_more_with_fewer_products() -> None:
    before = HERE + 0.05 * draws(6, 3, 4, 4, seed=3)
    start = RangeFinder(Rsvd(3, 2, 2)).find(ENCODER, before, PROBES).right
    assert missed(RangeFinder(Rsvd(3, 2, 1)), start).mean() < 0.5 * missed(RangeFinder(Rsvd(3, 2, 2)), PROBES).mean()


def test_the_published_order_spans_the_same_subspace_with_exact_products() -> None:
    graph = JacobianGraph(ENCODER, HERE)
    for q in (0, 2):
        ours, theirs = range_basis(graph, PROBES, q), published_basis(graph, PROBES, q)
        assert torch.allclose(ours @ ours.transpose(1, 2), theirs @ theirs.transpose(1, 2), atol=1e-8)
