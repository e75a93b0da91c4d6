"""Float64 denoisers and states for tests that compare guidance with finite differences."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from minoritybench.diffusion.schedule import Schedule, make_schedule
from minoritybench.diffusion.step import StepContext, predict
from minoritybench.rng import ImageStreams

SHAPE = (3, 3, 3)


class SmoothModel:
    """A float64 denoiser that mixes all pixels: eps = tanh(W x_t + timestep / 1000)."""

    name, weights_sha256, dtype, schedule, train_steps = "smooth", "", "float64", "cosine", 1000
    state_shape: tuple[int, ...] = SHAPE
    num_classes = None
    micro_batch, threads = 2, 1

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.weight = torch.randn(27, 27, generator=generator, dtype=torch.float64) / 27**0.5
        self.calls: list[tuple[int, bool]] = []

    def predict(self, x_t: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        self.calls.append((int(timestep[0]), torch.is_grad_enabled()))
        shift = timestep.to(torch.float64).view(-1, 1) / 1000
        return torch.tanh(x_t.flatten(1) @ self.weight.T + shift).view_as(x_t)

    def decode(self, x0: Tensor) -> Tensor:
        return (x0 + 1) / 2


def step_at(index: int, x_t: Tensor, model: Any, *, chain: Schedule | None = None, **resources: Any) -> StepContext:
    """One step of a chain as the loop hands it to `correct`: the network evaluated with its graph."""
    table = make_schedule("cosine", "50") if chain is None else chain
    leaf = x_t.detach().requires_grad_(True)
    streams = ImageStreams(0, range(len(x_t)))
    step = StepContext(leaf, index, table, None, model, streams, resources, Counter())
    with torch.enable_grad():
        prediction = predict(model, table, leaf, index, None, step.passes)
    step.eps, step.x0_hat = prediction.eps.detach(), prediction.x0_hat
    step.variance = prediction.log_variance.exp()
    return step
