"""DDIM against a loop written from the paper's equations, in numpy float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from minoritybench.baselines.ddim import Ddim
from numpy.typing import NDArray
from torch import Tensor

from minoritybench.diffusion.loop import TRANSITION_STREAM, run_chain
from minoritybench.diffusion.schedule import make_schedule
from minoritybench.rng import ImageStreams

Array = NDArray[np.float64]
WEIGHT: Array = np.random.default_rng(5).normal(size=(4, 4)) / 2


class MixingModel:
    """eps = sin(W x_t) + 0.3 cos(timestep / 100), float64, over states of four numbers."""

    name, weights_sha256, dtype, schedule, train_steps = "mixing", "", "float64", "cosine", 1000
    state_shape: tuple[int, ...] = (1, 2, 2)
    num_classes = None
    micro_batch, threads = 3, 1
    clip_x0 = True

    def predict(self, x_t: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        return torch.from_numpy(noise_of(x_t.flatten(1).numpy(), int(timestep[0]))).view_as(x_t)

    def decode(self, x0: Tensor) -> Tensor:
        return x0


def noise_of(x: Array, timestep: int) -> Array:
    return np.sin(x @ WEIGHT.T) + 0.3 * math.cos(timestep / 100)


def first_state() -> Array:
    return np.random.default_rng(6).normal(size=(3, 4))


@dataclass(frozen=True)
class StartedDdim(Ddim):
    def initial(self, streams: ImageStreams, shape: tuple[int, ...], schedule: Any) -> tuple[Tensor, int]:
        return torch.from_numpy(first_state()).view(3, *shape), schedule.steps - 1


def cosine_alpha_bars() -> Array:
    """Nichol and Dhariwal 2021, Eq. 17, betas capped at 0.999."""
    curve = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1001)]
    return np.cumprod([1 - min(1 - curve[t + 1] / curve[t], 0.999) for t in range(1000)])


def reference(stochasticity: float, clip: bool, streams: ImageStreams) -> Array:
    """Song et al. 2021, Eq. 12 and 16, over the timesteps 0, 20, ..., 980."""
    bars, timesteps = cosine_alpha_bars(), list(range(0, 1000, 20))
    x = first_state()
    for i in reversed(range(50)):
        now = bars[timesteps[i]]
        before = bars[timesteps[i - 1]] if i else 1.0
        x0 = (x - math.sqrt(1 - now) * noise_of(x, timesteps[i])) / math.sqrt(now)
        x0 = np.clip(x0, -1, 1) if clip else x0
        eps = (x - math.sqrt(now) * x0) / math.sqrt(1 - now)
        sigma = stochasticity * math.sqrt((1 - before) / (1 - now)) * math.sqrt(1 - now / before)
        noise = streams.normal((1, 2, 2), TRANSITION_STREAM, i).flatten(1).numpy().astype(np.float64)
        x = math.sqrt(before) * x0 + math.sqrt(1 - before - sigma**2) * eps + sigma * noise
    return x


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("stochasticity", [0.0, 0.7])
def test_chain_equals_the_equations(stochasticity: float, clip: bool) -> None:
    streams = ImageStreams(9, range(3))
    model = MixingModel()
    model.clip_x0 = clip
    x, passes = run_chain(model, make_schedule("cosine", "ddim50"), StartedDdim(stochasticity), streams, None)
    expected = reference(stochasticity, clip, streams)
    assert expected.std() > 0.1
    tolerance = 1e-6 if stochasticity else 1e-10  # noise is drawn and scaled in float32
    assert np.allclose(x.flatten(1).numpy(), expected, rtol=tolerance, atol=tolerance)
    assert passes["denoiser_forward"] == 50


def test_stochasticity_changes_the_samples() -> None:
    streams = ImageStreams(9, range(3))
    assert not np.allclose(reference(0.0, True, streams), reference(0.7, True, streams), atol=1e-2)
