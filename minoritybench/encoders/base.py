"""What the toolkit asks of a JEPA encoder."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from minoritybench.errors import BadInputError

_DEPENDENT = 1e-6
"""A declared null direction with less than this part of its length outside the span of those before it adds none."""

DEFAULT_MICRO_BATCH = 8
"""Rows a network call of an encoder that names no micro-batch of its own."""


@runtime_checkable
class Encoder(Protocol):
    """`prepare` maps images to the network input, calling maps that input to embeddings.

    Only these two methods are required. Optional attributes: `name: str`, `dim: int`, `input_size: int`,
    `preprocess: str` (a preset name), `weights_sha256: str | None`, `micro_batch: int` (fixed rows a network call),
    `threads: int | None` (torch threads that its results belong to), `null_directions(z)`, the structural left null
    directions of the Jacobian at an output, `(B, d) -> (B, d, m)`, not necessarily orthonormal, and `linearised()`, a
    `minoritybench.scoring.vit.LinearisedVit` of the same network, or None, by which exact scores are cheaper; and
    `derivatives(prepared)`, a `minoritybench.guidance.subspace.Derivatives` there or None, by which guidance is.
    """

    def prepare(self, images: Tensor) -> Tensor:
        """Float `(B, 3, H, W)` in `[0, 1]` to the normalised network input, differentiably."""
        ...

    def __call__(self, prepared: Tensor) -> Tensor:
        """Normalised network input to embeddings `(B, d)`; row i depends on input i alone."""
        ...


def micro_batch_of(encoder: Encoder) -> int:
    """The fixed number of rows a network call of this encoder."""
    return _count(encoder, "micro_batch") or DEFAULT_MICRO_BATCH


def threads_of(encoder: Encoder) -> int | None:
    """The torch thread count this encoder's results belong to, None for the process's own."""
    return _count(encoder, "threads")


def encoder_facts(encoder: Encoder, name: str) -> dict[str, Any]:
    """What identifies an encoder in plans and recipes: `name` as asked for, dimensions, preprocessing and weights.

    An attribute of a type that the interface does not know (see `Encoder`) is a one-line error that names it.
    """
    return {
        "name": name,
        "dim": _count(encoder, "dim"),
        "weights_sha256": _text(encoder, "weights_sha256"),
        "input_size": _count(encoder, "input_size"),
        "preprocess": _text(encoder, "preprocess"),
        "jacobian_wrt": "network_input",
        "micro_batch": micro_batch_of(encoder),
        "threads": threads_of(encoder),
    }


def embed(encoder: Encoder, prepared: Tensor) -> Tensor:
    """Embeddings `(B, d)` through attention kernels that have a second derivative: the fused ones have none."""
    with sdpa_kernel(SDPBackend.MATH):
        return encoder(prepared)


def require_same_output(encoder: Encoder, prepared: Tensor, z: Tensor, offer: str) -> None:
    """A subclass that changes the encoder's output but keeps what was written out by hand for another network (the
    method named `offer`, whose output at `prepared` is `z`) would get that network's derivatives."""
    with torch.no_grad():
        own = encoder(prepared)
    if own.shape != z.shape or not torch.allclose(
        own, z, rtol=1e-3, atol=1e-3 * float(own.abs().max()), equal_nan=True
    ):
        raise BadInputError(f"{name_of(encoder)}.{offer}() is not that of its __call__; let it return None")


def _count(encoder: Encoder, attribute: str) -> int | None:
    value = getattr(encoder, attribute, None)
    if value is None:
        return None
    try:
        count = operator.index(value)
    except TypeError as error:
        raise BadInputError(
            f"encoder {name_of(encoder)}: its {attribute} must be an integer, not {type(value).__name__}"
        ) from error
    if count < 1:
        raise BadInputError(f"encoder {name_of(encoder)}: its {attribute} must be at least 1, not {count}")
    return count


def _text(encoder: Encoder, attribute: str) -> str | None:
    value = getattr(encoder, attribute, None)
    if value is not None and not isinstance(value, str):
        raise BadInputError(f"encoder {name_of(encoder)}: its {attribute} must be a string, not {type(value).__name__}")
    return value


def name_of(encoder: Encoder) -> str:
    """The encoder's registered name, or its class name."""
    name = getattr(encoder, "name", None)
    return name if isinstance(name, str) else type(encoder).__name__


def null_basis(encoder: Encoder, z: Tensor) -> Tensor | None:
    """Orthonormal basis of the structural left null directions at outputs `z` `(B, d)`: float64 `(B, d, m)` or None.

    Reference: LayerNorm on the output token has two, 1/gamma and x_hat/gamma; a mean over LayerNormed tokens one,
    1/gamma; an L2-normalised output one, z itself; a linear projection after any of these none.

    NaN for an image whose directions are not finite. Directions of another shape, linearly dependent ones (of which QR
    would invent some that nobody declared) and as many as there are dimensions are a one-line error.
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
    if directions.shape[2] >= directions.shape[1]:
        raise BadInputError(
            f"{name_of(encoder)}.null_directions declares {directions.shape[2]} directions of {directions.shape[1]}:"
            " nothing is left to score"
        )
    columns = directions.detach().to(torch.float64)
    defined = columns.isfinite().flatten(1).all(dim=1).view(-1, 1, 1)
    stand_in = torch.eye(*columns.shape[1:], dtype=columns.dtype, device=columns.device)
    basis, triangle = torch.linalg.qr(torch.where(defined, columns, stand_in))
    apart = triangle.diagonal(dim1=1, dim2=2).abs() / triangle.norm(dim=1)  # 0 / 0 for a zero column
    if not (apart >= _DEPENDENT).all():
        raise BadInputError(
            f"{name_of(encoder)}.null_directions returns zero or linearly dependent columns; return each direction once"
        )
    return torch.where(defined, basis, torch.nan)
