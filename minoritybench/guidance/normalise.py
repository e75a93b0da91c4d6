"""Per-sample scaling of guidance gradients."""

from __future__ import annotations

import torch
from torch import Tensor


def max_normalised(gradient: Tensor, floor: float = 0.0) -> Tensor:
    """Each sample's gradient `(B, ...)` divided by its largest absolute entry plus `floor`; a zero one stays zero."""
    peak = gradient.abs().flatten(1).amax(dim=1) + floor
    peak = peak.clamp_min(torch.finfo(gradient.dtype).tiny)
    return gradient / peak.view(-1, *[1] * (gradient.ndim - 1))


def binary_scale(cotangent: Tensor) -> Tensor:
    """Powers of two `(B, 1, ...)` by which cotangents are divided for each sample's largest entry to lie in [1, 2):
    exact, so that float32 results stay as they are, and float16 chains neither underflow nor overflow; 1 for zero."""
    peak = cotangent.abs().flatten(1).amax(dim=1)
    _, exponent = torch.frexp(torch.where(peak > 0, peak, 1.0))
    return torch.ldexp(torch.ones_like(peak), exponent - 1).view(-1, *[1] * (cotangent.ndim - 1))


def l2_normalised(gradient: Tensor) -> Tensor:
    """Each sample's gradient `(B, ...)` divided by its Euclidean norm; a zero gradient stays zero."""
    norm = torch.linalg.vector_norm(gradient.flatten(1), dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
    return gradient / norm.view(-1, *[1] * (gradient.ndim - 1))
