"""Float64 classifiers of noised 3x3x3 states for tests that compare guidance with finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from toy_denoisers import SHAPE

from minoritybench.prepare import Prepared


class SmoothClassifier(nn.Module):
    """features = tanh(W x_t + timestep / 1000 + class / 10), logits = V features; keeps the timesteps and labels that
    it was given."""

    def __init__(self, outputs: int, seed: int = 0, gain: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.inner = torch.randn(6, 27, generator=generator, dtype=torch.float64) / 27**0.5
        self.outer = gain * torch.randn(outputs, 6, generator=generator, dtype=torch.float64)
        self.timesteps: list[list[int]] = []
        self.labels: list[Any] = []

    def features(self, x_t: Tensor, timestep: Tensor, labels: Tensor | None = None) -> Tensor:
        self.timesteps.append(timestep.tolist())
        self.labels.append(None if labels is None else labels.tolist())
        shift = timestep.to(torch.float64)[:, None] / 1000
        if labels is not None:
            shift = shift + labels.to(torch.float64)[:, None] / 10
        return torch.tanh(x_t.flatten(1) @ self.inner.T + shift)

    def forward(self, x_t: Tensor, timestep: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.features(x_t, timestep, labels) @ self.outer.T


def toy_part(outputs: int, seed: int = 0, gain: float = 1.0, **tensors: Tensor) -> Prepared:
    return Prepared(SmoothClassifier(outputs, seed, gain), tensors)  # type: ignore[arg-type]


def states(batch: int = 2) -> Tensor:
    return torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def central_differences(objective: Callable[[Tensor], Tensor], x_t: Tensor, h: float = 1e-6) -> Tensor:
    """Gradient of the objective `(B,)` of each state, `(B, *SHAPE)`."""
    gradient = torch.zeros_like(x_t)
    for pixel in range(27):
        nudge = torch.zeros(27, dtype=torch.float64)
        nudge[pixel] = h
        slope = (objective(x_t + nudge.view(SHAPE)) - objective(x_t - nudge.view(SHAPE))) / (2 * h)
        gradient.flatten(1)[:, pixel] = slope
    return gradient
