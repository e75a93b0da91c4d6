"""What the toolkit asks of a JEPA encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from minoritybench.errors import BadInputError

DEFAULT_MICRO_BATCH = 8
"""Rows a network call of an encoder that names no micro-batch of its own."""


@runtime_checkable
class Encoder(Protocol):
    """`prepare` maps images to the network input, calling maps that input to embeddings.

    Only these two methods are required. Optional attributes: `name: str`, `dim: int`, `input_size: int`,
    `preprocess: str` (a preset name), `weights_sha256: str | None`, `micro_batch: int` (fixed rows a network call),
    `threads: int | None` (torch threads that its results belong to) and `null_directions(z)`, the structural left
    null directions of the Jacobian at an output, `(B, d) -> (B, d, m)`, not necessarily orthonormal.
    """

    def prepare(self, images: Tensor) -> Tensor:
        """Float `(B, 3, H, W)` in `[0, 1]` to the normalised network input, differentiably."""
        ...

    def __call__(self, prepared: Tensor) -> Tensor:
        """Normalised network input to embeddings `(B, d)`; row i depends on input i alone."""
        ...


def micro_batch_of(encoder: Encoder) -> int:
    """The fixed number of rows a network call of this encoder."""
    return int(getattr(encoder, "micro_batch", DEFAULT_MICRO_BATCH))


def threads_of(encoder: Encoder) -> int | None:
    """The torch thread count this encoder's results belong to, None for the process's own."""
    threads = getattr(encoder, "threads", None)
    return None if threads is None else int(threads)


def name_of(encoder: Encoder) -> str:
    """The encoder's registered name, or its class name."""
    return str(getattr(encoder, "name", type(encoder).__name__))


def null_basis(encoder: Encoder, z: Tensor) -> Tensor | None:
    """Orthonormal basis of the structural left null directions at outputs `z` `(B, d)`: float64 `(B, d, m)` or None.

    Reference: LayerNorm on the output token has two, 1/gamma and x_hat/gamma; a mean over LayerNormed tokens one,
    1/gamma; an L2-normalised output one, z itself; a linear projection after any of these none.
    """
    declared: Callable[[Tensor], Tensor | None] | None = getattr(encoder, "null_directions", None)
    directions = None if declared is None else declared(z)
    if directions is None or directions.shape[-1] == 0:
        return None
    if directions.ndim != 3 or directions.shape[:2] != z.shape:
        raise BadInputError(
            f"{name_of(encoder)}.null_directions must return (B, d, m) for z of shape {tuple(z.shape)},"
            f" not {tuple(directions.shape)}"
        )
    return torch.linalg.qr(directions.detach().to(torch.float64)).Q
