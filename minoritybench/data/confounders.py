"""Simple image statistics that a rarity score should not be a mere echo of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from minoritybench.data.source import LoadedImage

CONFOUNDERS = ("sharpness", "contrast", "brightness", "file_bytes", "resolution")


def confounders(image: LoadedImage) -> dict[str, float]:
    """Of one image: `sharpness` mean squared 4-neighbour Laplacian of luminance, `contrast` its standard deviation,
    `brightness` its mean (all in units of the `[0, 1]` range), `file_bytes`, and `resolution` in pixels."""
    luminance = image.pixels.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) / 255.0
    return {
        "sharpness": float(np.mean(_laplacian(luminance) ** 2)),
        "contrast": float(luminance.std()),
        "brightness": float(luminance.mean()),
        "file_bytes": float(image.file_bytes),
        "resolution": float(luminance.size),
    }


def _laplacian(luminance: NDArray[np.float64]) -> NDArray[np.float64]:
    padded = np.pad(luminance, 1, mode="edge")
    neighbours = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    laplacian: NDArray[np.float64] = neighbours - 4 * luminance
    return laplacian
