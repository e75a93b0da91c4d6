"""Encoders whose Jacobian has fewer directions than the search: chains end, and a lost direction is looked for anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from minoritybench.baselines.adm import Adm
from minoritybench.baselines.jepa import PROBE_STREAM, Jepa, _start
from torch import Tensor
from toy_denoisers import SmoothModel, step_at
from toy_encoders import PlainEncoder

from minoritybench.diffusion.embedded import load_digits_ddpm
from minoritybench.diffusion.loop import run_chain
from minoritybench.diffusion.schedule import make_schedule
from minoritybench.rng import ImageStreams
from minoritybench.scoring.rsvd import triplets

FINDERS = [
    {"range_finder": finder, "warm_q": warm_q, "warm_start": warm}
    for finder in ("lanczos", "rsvd")
    for warm_q, warm in ((0, True), (1, True), (2, True), (1, False))
] + [{"range_finder": "rsvd", "products": "finite-difference"}]


def of_rank(rank: int, activation: Callable[[Tensor], Tensor]) -> PlainEncoder:
    """`up(activation(down(pixels)))` in float32 with `rank` hidden units."""
    generator = torch.Generator().manual_seed(2)
    down, up = torch.randn(192, rank, generator=generator) / 14, torch.randn(rank, 12, generator=generator)
    return PlainEncoder(lambda x: activation(x.flatten(1) @ down) @ up)


def partly_dead(hidden: Tensor) -> Tensor:
    """Smooth where alive, flat below a threshold that some units never pass, some always and some now and then."""
    return torch.relu(hidden + torch.linspace(-2, 2, hidden.shape[1])) ** 2


def plain() -> Tensor:
    """The chain without guidance."""
    x, _ = run_chain(
        load_digits_ddpm("digits-ddpm"), make_schedule("cosine", "50"), Adm(), ImageStreams(3, range(6)), None
    )
    return x


def chain(encoder: PlainEncoder, images: Sequence[int] = range(6), **settings: Any) -> Tensor:
    x, _ = run_chain(
        load_digits_ddpm("digits-ddpm"),
        make_schedule("cosine", "50"),
        Jepa(**{"eta": 1.0, "clamp_x0": False, **settings}),
        ImageStreams(3, images),
        None,
        resources={"encoder": encoder},
    )
    return x


@pytest.mark.parametrize("settings", FINDERS)
@pytest.mark.parametrize("rank", [1, 4])
def test_chains_of_low_rank_encoders_end(rank: int, settings: dict[str, Any]) -> None:
    guided = chain(of_rank(rank, torch.tanh), **settings)
    assert guided.isfinite().all()
    assert (guided != plain()).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("settings", FINDERS)
def test_chains_with_dead_units_end(settings: dict[str, Any]) -> None:
    assert chain(of_rank(5, partly_dead), **settings).isfinite().all()


def test_an_encoder_that_is_dead_everywhere_guides_nowhere() -> None:
    assert torch.equal(chain(of_rank(3, lambda hidden: torch.relu(hidden - 1e3))), plain())


def test_what_replaces_a_lost_direction_belongs_to_the_image() -> None:
    encoder = of_rank(5, partly_dead)
    here, there = chain(encoder, [0, 1, 2, 3, 4, 5]), chain(encoder, [4, 9, 5, 8, 0, 7])
    assert torch.equal(here[[0, 4, 5]], there[[4, 0, 2]])


def test_a_value_lost_in_rounding_has_no_right_vector() -> None:
    basis = torch.eye(4).expand(3, 4, 4)
    rows = torch.zeros(3, 4, 6)
    rows[0, 0, 0], rows[0, 1, 1], rows[0, 2, 2] = 2.0, 1e-3, 1e-8  # the third is below 2 eps
    rows[1, :2, 0] = 1.0  # rank one, both rows alike
    found = triplets(basis, rows, 4)
    lengths = found.right.norm(dim=2)
    assert torch.allclose(lengths, torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]))
    assert found.sigma[0, :2].tolist() == pytest.approx([2.0, 1e-3])


def test_a_lost_direction_is_looked_for_in_fresh_random_ones() -> None:
    """The start of a guided step: known directions stay as they are, those lost are probes of this step and image."""
    step = step_at(7, torch.zeros(2, 3, 3, 3, dtype=torch.float64), SmoothModel())
    inputs = torch.zeros(2, 27, dtype=torch.float64)
    probes = step.rng((4, 27), PROBE_STREAM)
    known = torch.ones(2, 4, 27, dtype=torch.float64)
    assert torch.equal(_start(step, None, 4, inputs), probes)
    assert torch.equal(_start(step, known, 4, inputs), known)
    known[1, 2:] = 0.0
    start = _start(step, known, 4, inputs)
    assert torch.equal(start[1, 2:], probes[1, 2:])
    assert (start[0] == 1).all()
    assert (start[1, :2] == 1).all()
