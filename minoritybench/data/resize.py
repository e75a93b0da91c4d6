"""Every resize of the toolkit, by preset name.

`antialias-<size>` filters before it samples; `author-bilinear-<size>` is what the published JEPA-SCORE code does:
bilinear without antialiasing. Both squash to a square, ignoring the aspect ratio, and are differentiable.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from minoritybench.errors import BadInputError

_ANTIALIAS = {"antialias": True, "author-bilinear": False}


def resize(images: Tensor, preset: str) -> Tensor:
    """`(B, C, H, W)` to `(B, C, size, size)`; images that have the size already pass through untouched."""
    family, _, size_text = preset.rpartition("-")
    if family not in _ANTIALIAS or not size_text.isdecimal():
        raise BadInputError(f"unknown resize preset {preset!r}: antialias-<size> or author-bilinear-<size>")
    size = int(size_text)
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=_ANTIALIAS[family], align_corners=False)
