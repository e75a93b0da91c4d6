"""Simple image statistics that a rarity score should not be a mere echo of."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from minoritybench.data.source import LoadedImage

CONFOUNDERS = ("sharpness", "contrast", "brightness", "file_bytes", "resolution")

_FULL = 255 * 1000
"""Luminance of white: 0.299 R + 0.587 G + 0.114 B in thousandths of a level, a whole number of every pixel."""
_STRIP = 128
"""Rows looked at together, so that a large photograph needs no whole copies of itself."""


def confounders(image: LoadedImage) -> dict[str, float]:
    """Of one image: `sharpness` mean squared 4-neighbour Laplacian of luminance, `contrast` its standard deviation,
    `brightness` its mean (all in units of the `[0, 1]` range), `file_bytes`, and `resolution` in pixels.

    The sums run over whole numbers, strip by strip, and are exact; only the last divisions round.
    """
    height, width = image.pixels.shape[:2]
    count = height * width
    total = squares = laplacians = 0
    for top in range(0, height, _STRIP):
        luminance = _luminance(image.pixels, top, min(top + _STRIP, height))
        inner = luminance[1:-1, 1:-1]
        total += int(inner.sum())
        squares += int((inner * inner).sum())
        laplacian = luminance[:-2, 1:-1] + luminance[2:, 1:-1] + luminance[1:-1, :-2] + luminance[1:-1, 2:] - 4 * inner
        laplacians += int((laplacian * laplacian).sum())
    return {
        "sharpness": laplacians / (count * _FULL**2),
        "contrast": sqrt(count * squares - total**2) / (count * _FULL),
        "brightness": total / (count * _FULL),
        "file_bytes": float(image.file_bytes),
        "resolution": float(count),
    }


def _luminance(pixels: NDArray[np.uint8], top: int, bottom: int) -> NDArray[np.int64]:
    """Rows `top - 1` to `bottom`, with a column more on each side; beyond the image its edge is repeated."""
    rows = np.clip(np.arange(top - 1, bottom + 1), 0, len(pixels) - 1)
    strip = pixels[rows]
    red, green, blue = (strip[..., channel].astype(np.int64) for channel in range(3))
    return np.pad(299 * red + 587 * green + 114 * blue, ((0, 0), (1, 1)), mode="edge")
