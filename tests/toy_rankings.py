"""Encoders whose JEPA-SCORE is known, as the files a user would name: `toy_rankings.py:predictable` and the like."""

from __future__ import annotations

import torch
from scipy.linalg import hadamard
from torch import Tensor

SIDE = 4
_HADAMARD = torch.from_numpy(hadamard(SIDE**2)).float() / SIDE


class Diagonal:
    """`f_i(x) = g_i(x_i)` on a 4 x 4 grey image, so that the Jacobian is diagonal and the score a sum of logs.

    `wild` rotates the input first: one row of a diagonal Jacobian would give the whole score away.
    """

    dim, input_size, micro_batch, threads = SIDE**2, SIDE, 16, 1

    def __init__(self, kind: str) -> None:
        self.name, self.kind = f"diagonal-{kind}", kind

    def prepare(self, images: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), SIDE)

    def __call__(self, prepared: Tensor) -> Tensor:
        x = prepared.flatten(1)
        if self.kind == "flat":
            return 3 * x
        if self.kind == "broken":
            return x.exp() * torch.where(x > 0.9, torch.inf, 1.0)
        if self.kind == "wild":  # the score changes within less than any two images are apart
            turned = x @ _HADAMARD
            return turned + 0.9e-4 * (1e4 * turned).sin()
        return (2 * x).exp() / 2


def predictable() -> Diagonal:
    """Score `2 sum x_i`: a smooth function of the image."""
    return Diagonal("predictable")


def flat() -> Diagonal:
    """The same score for every image."""
    return Diagonal("flat")


def wild() -> Diagonal:
    """Score `sum log(1 + 0.9 cos(1e4 y_i))`, y the rotated input: spread out, but noise to any proxy."""
    return Diagonal("wild")


def broken() -> Diagonal:
    """Not finite where a pixel is bright."""
    return Diagonal("broken")
