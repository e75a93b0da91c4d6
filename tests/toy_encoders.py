"""Small encoders with known properties."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class PlainEncoder:
    """Any function on (B, 3, H, W) as an encoder whose prepared input is the image itself."""

    def __init__(self, function: Callable[[Tensor], Tensor], micro_batch: int = 8) -> None:
        self.function = function
        self.micro_batch = micro_batch

    def prepare(self, images: Tensor) -> Tensor:
        return images

    def __call__(self, prepared: Tensor) -> Tensor:
        return self.function(prepared)


class LayerNormEncoder(PlainEncoder):
    """A small float64 MLP that ends in an affine nn.LayerNorm, with its two null directions declared."""

    def __init__(self, inputs: int, dim: int, seed: int = 0) -> None:
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 24), nn.GELU(), nn.LayerNorm(24), nn.Linear(24, dim))
        self.norm = nn.LayerNorm(dim)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)
        nn.init.normal_(self.norm.bias)
        self.body = body.double().requires_grad_(False)
        self.norm = self.norm.double().requires_grad_(False)
        super().__init__(lambda x: self.norm(self.body(x)))

    def null_directions(self, z: Tensor) -> Tensor:
        x_hat = (z - self.norm.bias) / self.norm.weight
        constant = (1 / self.norm.weight).expand_as(z)
        return torch.stack([constant, x_hat / self.norm.weight], dim=-1)
