"""Resizing against Pillow and against the closed form of plain bilinear sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from minoritybench.data.resize import resize
from minoritybench.errors import BadInputError


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


def test_clean_bicubic_is_pillows_on_floats_clipped_and_never_rounded() -> None:
    """Enlarging and shrinking; clean-fid resizes float channels in grey levels."""
    for size in (13, 60):
        found = resize(torch.from_numpy(noise())[None, None], f"clean-bicubic-{size}")[0, 0].numpy()
        levels = Image.fromarray(noise() * 255).resize((size, size), Image.Resampling.BICUBIC)
        expected = np.clip(np.asarray(levels), 0, 255)
        assert np.abs(found * 255 - expected).max() < 0.01
        assert found.min() >= 0
        assert found.max() <= 1
        assert np.abs(found * 255 - np.round(found * 255)).mean() > 0.1


def test_pil_bicubic_is_pillows_on_8_bit_pictures() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 40, 3), dtype=np.uint8)
    found = resize(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255, "pil-bicubic-17")
    for one, levels in zip(found, pixels, strict=True):
        expected = np.asarray(Image.fromarray(levels).resize((17, 17), Image.Resampling.BICUBIC))
        assert ((one * 255).permute(1, 2, 0).round().numpy() == expected).all()


def test_an_unknown_preset_names_the_known_ones() -> None:
    for preset in ("clean-bicubic", "lanczos-8", "8"):
        with pytest.raises(BadInputError, match="antialias-<size> or author-bilinear-<size> or clean-bicubic-<size>"):
            resize(torch.zeros(1, 3, 4, 4), preset)
