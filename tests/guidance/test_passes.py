"""What guidance says it cost, an image, against counts by hand."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from minoritybench.baselines.jepa import Jepa
from toy_encoders import LayerNormEncoder

import minoritybench
from minoritybench.diffusion.embedded import load_digits_ddpm
from minoritybench.diffusion.loop import run_chain
from minoritybench.diffusion.schedule import make_schedule
from minoritybench.guidance import RangeFinder, score_gradient
from minoritybench.rng import ImageStreams
from minoritybench.scoring import Rsvd

CHAIN = make_schedule("cosine", "50")


def chain(**settings: Any) -> Counter[str]:
    _, passes = run_chain(
        load_digits_ddpm("digits-ddpm"),
        CHAIN,
        Jepa(eta=1.0, **settings),
        ImageStreams(0, range(2)),
        None,
        resources={"encoder": minoritybench.load_encoder("digits-jepa")},
    )
    return passes


def test_default_chain() -> None:
    """13 guided steps, five vectors: three rounds of both products in the first, two in the others."""
    products = 5 * (3 + 12 * 2)
    assert chain() == {
        "denoiser_forward": 50,
        "denoiser_backward": 13,
        "encoder_forward": 13 * (1 + 3),
        "encoder_jvp": products,
        "encoder_vjp": products,
        "encoder_double_backward": 13 * 3,
    }


def test_published_chain_takes_forwards_for_jvps() -> None:
    guided = sum(Jepa(gate="code").active(index, CHAIN) for index in range(50))
    assert chain(**Jepa.presets["official-code"]) == {
        "denoiser_forward": 50 + guided,
        "denoiser_backward": guided,
        "encoder_forward": guided * (1 + 3 * 5 + 3),
        "encoder_vjp": guided * 3 * 5,
        "encoder_double_backward": guided * 3,
    }


def test_central_differences_take_no_second_derivative() -> None:
    passes = chain(gradient="central-difference")
    assert "encoder_double_backward" not in passes
    assert passes["encoder_forward"] == 13 * (1 + 2 * 3)
    assert passes["encoder_vjp"] == passes["encoder_jvp"] + 13 * 2 * 3


@pytest.mark.parametrize(("kind", "blocks"), [("lanczos", 8 + 8 + 2), ("rsvd", 3 * 8)])
def test_a_full_space_ends_the_products(kind: Any, blocks: int) -> None:
    """18 directions beside the null ones: the third block of eight has room for two."""
    prepared = torch.rand(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start = torch.randn(2, 8, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = score_gradient(LayerNormEncoder(48, 20), prepared, RangeFinder(Rsvd(3, 5, 2), kind), start)
    assert found.passes["encoder_jvp"] == found.passes["encoder_vjp"] == blocks
