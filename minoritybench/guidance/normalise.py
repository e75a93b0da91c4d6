"""Per-sample scaling of guidance gradients."""

from __future__ import annotations

import torch
from torch import Tensor


def max_normalised(gradient: Tensor) -> Tensor:
    """Each sample's gradient `(B, ...)` divided by its largest absolute entry; a zero gradient stays zero."""
    peak = gradient.abs().flatten(1).amax(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
    return gradient / peak.view(-1, *[1] * (gradient.ndim - 1))
