"""The 1,797 8x8 digits of scikit-learn's ``load_digits``, split once and for all, also brought to 16x16.

Source: UCI "Optical Recognition of Handwritten Digits" (test part), as bundled with scikit-learn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

N_TOTAL = 1797
N_TRAIN = 1500
IMAGE_SIZE = 8
DOUBLED_SIZE = 16
SPLIT_SEED = 0


@dataclass(frozen=True)
class DigitsSplit:
    """One split, ordered by the index into ``load_digits``.

    ids: ``digits-0042`` is image 42 of ``load_digits``.
    images: ``(N, 8, 8)`` uint8 in 0..255, ``(N, 16, 16)`` where doubled.
    labels: ``(N,)`` int64 in 0..9.
    """

    ids: tuple[str, ...]
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)


def load_split(split: Literal["train", "test"]) -> DigitsSplit:
    """Load the 1,500 training or the 297 test digits, ascending by index.

    Source values 0..16 become ``round(v * 255 / 16)``. The split is fixed by ``RandomState(0)``, whose
    stream NumPy guarantees not to change.
    """
    if split not in ("train", "test"):
        raise ValueError(f"unknown split {split!r}: choose 'train' or 'test'")
    from sklearn.datasets import load_digits  # slow import, needed only here

    values, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(SPLIT_SEED).permutation(N_TOTAL)
    index = np.sort(order[:N_TRAIN] if split == "train" else order[N_TRAIN:])
    images = np.round(values[index] * 255 / 16).astype(np.uint8).reshape(-1, IMAGE_SIZE, IMAGE_SIZE)
    return DigitsSplit(
        ids=tuple(f"digits-{i:04d}" for i in index),
        images=images,
        labels=labels[index].astype(np.int64),
    )


def load_doubled_split(split: Literal["train", "test"]) -> DigitsSplit:
    """The same digits at 16x16: each 8-bit image through Pillow's bicubic, whose fixed-point sums are exact."""
    digits = load_split(split)
    size = (DOUBLED_SIZE, DOUBLED_SIZE)
    doubled = [np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BICUBIC)) for one in digits.images]
    return replace(digits, images=np.stack(doubled))
