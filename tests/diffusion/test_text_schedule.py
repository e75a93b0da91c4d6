"""Schedules of latent models: published anchors and diffusers' own timesteps."""

from __future__ import annotations

import numpy as np
import pytest

from minoritybench.diffusion.schedule import (
    leading_timesteps,
    make_schedule,
    respaced,
    scaled_linear_betas,
    trailing_timesteps,
)
from minoritybench.errors import BadInputError

BETAS = scaled_linear_betas(1000, 0.00085, 0.012)


def test_anchors_of_stable_diffusion() -> None:
    table = respaced(BETAS, range(1000)).alphas_cumprod
    assert table[0] == pytest.approx(0.99915, abs=1e-8)
    assert table[999] == pytest.approx(0.00466, abs=5e-6)
    lightning = respaced(BETAS, trailing_timesteps(1000, 4))
    assert lightning.timesteps == (249, 499, 749, 999)
    assert lightning.alphas_cumprod[::-1] == pytest.approx([0.00466, 0.056623, 0.277669, 0.675432], abs=1e-6)
    sigmas = np.sqrt((1 - lightning.alphas_cumprod) / lightning.alphas_cumprod)
    assert sigmas[::-1] == pytest.approx([14.6146, 4.0817, 1.6129, 0.6932], abs=5e-5)


def test_leading_spacing_of_50_steps() -> None:
    timesteps = leading_timesteps(1000, 50, 1)
    assert timesteps[:2] + timesteps[-2:] == [1, 21, 961, 981]


@pytest.mark.parametrize("steps", [4, 7, 20, 50])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_timesteps_are_those_of_diffusers(steps: int, spacing: str) -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(beta_schedule="scaled_linear", timestep_spacing=spacing, steps_offset=1)
    scheduler.set_timesteps(steps)
    ours = leading_timesteps(1000, steps, 1) if spacing == "leading" else trailing_timesteps(1000, steps)
    assert ours[::-1] == scheduler.timesteps.tolist()


def test_shift_takes_the_level_before() -> None:
    shifted = respaced(BETAS, [1, 499], shift=1)
    plain = respaced(BETAS, [0, 498])
    assert shifted.timesteps == (1, 499)
    assert np.array_equal(shifted.alphas_cumprod, plain.alphas_cumprod)
    assert shifted.alphas_cumprod[1] == pytest.approx(0.27901, abs=5e-6)


def test_a_shift_applies_to_every_level() -> None:
    shifted = respaced(BETAS, [1, 499], shift=1)
    assert shifted.training[0] == 1
    assert np.array_equal(shifted.training[1:], respaced(BETAS, [0]).training[:-1])


def test_a_shift_has_nothing_before_timestep_0() -> None:
    with pytest.raises(BadInputError, match="alpha_shift=1: the chain visits timestep 0"):
        respaced(BETAS, [0, 499], shift=1)


def test_an_end_below_one_leaves_noise() -> None:
    chain = respaced(BETAS, [1, 21], end=0.99915)
    assert chain.alphas_cumprod_prev.tolist() == [0.99915, chain.alphas_cumprod[0]]
    assert chain.posterior_variance[0] > 0
    assert chain.posterior_log_variance[0] == np.log(chain.posterior_variance[0])


def test_the_training_chain_is_kept() -> None:
    assert np.array_equal(make_schedule("cosine", "10").training, make_schedule("cosine", "1000").alphas_cumprod)


def test_too_many_steps_are_refused() -> None:
    with pytest.raises(BadInputError, match="1001 steps"):
        leading_timesteps(1000, 1001, 0)
    with pytest.raises(BadInputError, match="1001 steps"):
        trailing_timesteps(1000, 1001)
    with pytest.raises(BadInputError, match="1000 steps"):
        leading_timesteps(1000, 1000, 1)
