"""Resizing against Pillow and against the closed form of plain bilinear sampling."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from minoritybench.data.resize import resize


def noise() -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(0).random((32, 40), dtype=np.float32)


def test_antialias_filters_before_it_samples_as_pillow_does() -> None:
    found = resize(torch.from_numpy(noise())[None, None], "antialias-8")[0, 0].numpy()
    expected = np.asarray(Image.fromarray(noise()).resize((8, 8), Image.Resampling.BILINEAR))
    assert np.allclose(found, expected, atol=1e-5)
    assert found.std() < 0.1  # the mean of dozens of pixels


def test_author_bilinear_reads_the_two_nearest_rows_and_columns_only() -> None:
    """32 to 8 reads at 4i + 1.5: the mean of pixels 4i + 1 and 4i + 2; what lies between is not seen."""
    square = noise()[:, :32]
    found = resize(torch.from_numpy(square)[None, None], "author-bilinear-8")[0, 0].numpy()
    rows = (square[1::4] + square[2::4]) / 2
    assert np.allclose(found, (rows[:, 1::4] + rows[:, 2::4]) / 2, atol=1e-6)
    assert found.std() > 0.1
