"""Image statistics against their definitions in float64, and the memory they take."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from minoritybench.data.confounders import confounders
from minoritybench.data.source import LoadedImage


def by_definition(pixels: np.ndarray) -> dict[str, float]:
    luminance = pixels.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) / 255
    padded = np.pad(luminance, 1, mode="edge")
    neighbours = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    laplacian = neighbours - 4 * luminance
    return {
        "sharpness": np.mean(laplacian**2),
        "contrast": luminance.std(),
        "brightness": luminance.mean(),
        "file_bytes": 77.0,
        "resolution": luminance.size,
    }


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (127, 5), (128, 9), (129, 3), (300, 200)])
@pytest.mark.parametrize("top", [2, 256])
def test_values_are_those_of_the_definitions(shape: tuple[int, int], top: int) -> None:
    pixels = np.random.default_rng(sum(shape)).integers(0, top, (*shape, 3), dtype=np.uint8)
    found = confounders(LoadedImage(pixels, "", 77))
    assert found == pytest.approx(by_definition(pixels), rel=1e-9, abs=1e-12)


def test_flat_image_has_exactly_no_contrast() -> None:
    found = confounders(LoadedImage(np.full((50, 40, 3), 201, np.uint8), "", 1))
    assert (found["contrast"], found["sharpness"]) == (0.0, 0.0)
    assert found["brightness"] == 201 / 255


def test_large_image_needs_less_memory_than_itself() -> None:
    image = LoadedImage(np.zeros((3000, 1000, 3), np.uint8), "", 1)
    tracemalloc.start()
    confounders(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < image.pixels.nbytes
