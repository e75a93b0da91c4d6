"""Schedule anchors: independent values of the 1,000-step chains respaced to 250 steps."""

from __future__ import annotations

import numpy as np
import pytest

from minoritybench.diffusion.schedule import make_schedule, spaced_timesteps
from minoritybench.errors import BadInputError

ANCHORS = [
    ("cosine", 0, 0, 0.999959, 4.12842e-5, 0.0, 1.0, 0.0),
    ("cosine", 1, 4, 0.999745, 2.13697e-4, 3.46011e-5, 0.8381, 0.1619),
    ("cosine", 125, 502, 0.489169, 0.0156793, 0.0154402, 0.021638, 0.977),
    ("cosine", 198, 794, 0.0986438, 0.0366117, 0.0364594, 0.012997, 0.97744),
    ("cosine", 200, 802, 0.091334, 0.0381583, 0.0380061, 0.01294, 0.97682),
    ("cosine", 246, 987, 3.49702e-4, 0.437449, 0.43733, 0.010911, 0.74983),
    ("cosine", 249, 999, 2.42877e-9, 0.999937, 0.999899, 0.0062334, 0.0079054),
    ("linear", 0, 0, 0.9999, 1e-4, 0.0, 1.0, 0.0),
    ("linear", 125, 502, 0.0762347, 0.0492979, 0.0490869, 0.015112, 0.97087),
    ("linear", 198, 794, 1.66057e-3, 0.0620478, 0.062041, 0.0026151, 0.96837),
    ("linear", 249, 999, 4.03583e-5, 0.0775193, 0.0775191, 5.1276e-4, 0.96046),
]


@pytest.mark.parametrize(("name", "i", "timestep", "alpha_bar", "beta", "variance", "c1", "c2"), ANCHORS)
def test_anchor(
    name: str, i: int, timestep: int, alpha_bar: float, beta: float, variance: float, c1: float, c2: float
) -> None:
    schedule = make_schedule(name, "250")
    assert schedule.timesteps[i] == timestep
    found = (
        schedule.alphas_cumprod[i],
        schedule.betas[i],
        schedule.posterior_variance[i],
        schedule.x0_coefficient[i],
        schedule.x_t_coefficient[i],
    )
    assert found == pytest.approx((alpha_bar, beta, variance, c1, c2), rel=6e-5, abs=1e-12)


def test_spacings() -> None:
    assert sum(spaced_timesteps(1000, "250")) == 124875
    assert spaced_timesteps(1000, "250")[-2:] == [995, 999]
    assert spaced_timesteps(1000, "ddim250")[-2:] == [992, 996]
    assert spaced_timesteps(1000, "ddim30") == list(range(0, 1000, 34))
    assert spaced_timesteps(1000, "10,20,30")[:2] == [0, 37]
    assert len(spaced_timesteps(1000, "10,20,30")) == 60


@pytest.mark.parametrize("spacing", ["0", "ddim0", "1001", "fast", "ddim999", "10,"])
def test_impossible_spacing_is_named(spacing: str) -> None:
    with pytest.raises(BadInputError, match="spacing"):
        spaced_timesteps(1000, spacing)


def test_unknown_schedule_is_named() -> None:
    with pytest.raises(BadInputError, match="quadratic"):
        make_schedule("quadratic", "50")


def test_log_variance_at_zero_is_that_at_one() -> None:
    schedule = make_schedule("cosine", "50")
    assert schedule.posterior_log_variance[0] == np.log(schedule.posterior_variance[1])
