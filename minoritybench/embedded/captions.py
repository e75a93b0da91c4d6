"""Captions of the 16x16 digits, from attributes measured in the image: "a bold slanted seven".

An attribute is named where it lies in the lowest or the highest third of the training images *of the same digit*: a
bold seven is bold for a seven. Sevens lean and ones are narrow by their nature, so that thirds over all digits would
mostly repeat the digit's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from minoritybench.embedded.data import load_doubled_split

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ATTRIBUTES = ("ink", "width", "slant")
LOW_AND_HIGH = {"ink": ("thin", "bold"), "width": ("narrow", "wide"), "slant": ("backslanted", "slanted")}
"""The words for the lowest and the highest third; the middle third goes unnamed."""
VOCABULARY = ("a", "an", *(word for pair in LOW_AND_HIGH.values() for word in pair), *DIGIT_NAMES)

Floats = NDArray[np.float64]


def measure(images: NDArray[np.uint8]) -> dict[str, Floats]:
    """Attributes of grey images `(N, H, W)`, bright strokes on black; each `(N,)`.

    ink: mean brightness in `[0, 1]`. slant: pixels to the right for each pixel upwards, positive for italics, from the
    second moments of the brightness. width: its horizontal standard deviation in pixels once the slant is sheared
    away. An empty image has no ink, slant or width.
    """
    brightness = images.astype(np.float64) / 255
    total = brightness.sum(axis=(1, 2))
    weights = brightness / np.where(total > 0, total, 1.0)[:, None, None]
    rows, columns = np.mgrid[: images.shape[1], : images.shape[2]]

    def mean(values: Floats) -> Floats:
        return (weights * values).sum(axis=(1, 2))

    dx = columns - mean(columns)[:, None, None]
    dy = mean(rows)[:, None, None] - rows  # upwards
    xx, xy, yy = mean(dx * dx), mean(dx * dy), mean(dy * dy)
    slant = xy / np.where(yy > 0, yy, 1.0)
    width = np.sqrt(np.maximum(xx - slant * xy, 0.0))
    return {"ink": brightness.mean(axis=(1, 2)), "width": width, "slant": slant}


@cache
def thresholds() -> dict[str, Floats]:
    """The two limits of the middle third of each attribute by digit, `(10, 2)`, from the training images."""
    train = load_doubled_split("train")
    measured = measure(train.images)
    return {
        name: np.stack([np.quantile(measured[name][train.labels == digit], [1 / 3, 2 / 3]) for digit in range(10)])
        for name in ATTRIBUTES
    }


def captions(images: NDArray[np.uint8], labels: Sequence[int] | NDArray[np.int64]) -> list[str]:
    """A caption for each grey image `(N, 16, 16)` with its digit."""
    measured, limits = measure(images), thresholds()
    out = []
    for index, digit in enumerate(labels):
        levels = [int(np.searchsorted(limits[name][digit], measured[name][index])) for name in ATTRIBUTES]
        out.append(caption(int(digit), levels))
    return out


def caption(digit: int, levels: Sequence[int]) -> str:
    """The caption of a digit whose attributes, in the order of `ATTRIBUTES`, are low (0), unnamed (1) or high (2)."""
    words = [LOW_AND_HIGH[name][level // 2] for name, level in zip(ATTRIBUTES, levels, strict=True) if level in (0, 2)]
    words.append(DIGIT_NAMES[digit])
    return " ".join(["an" if words[0] == "eight" else "a", *words])


def all_captions() -> list[str]:
    """The 270 captions there can be: 10 digits times three attributes at three levels."""
    return [caption(digit, levels) for digit in range(10) for levels in product(range(3), repeat=len(ATTRIBUTES))]


def digit_of(text: str) -> int:
    """The digit that a caption names."""
    return DIGIT_NAMES.index(text.rsplit(" ", 1)[-1])
