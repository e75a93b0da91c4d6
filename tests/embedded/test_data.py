"""The digits split."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from minoritybench.embedded.data import load_split


def test_the_two_splits_are_disjoint_and_complete() -> None:
    train, test = load_split("train"), load_split("test")
    assert (len(train), len(test)) == (1500, 297)
    assert len(set(train.ids) | set(test.ids)) == 1797
    assert [*train.ids] == sorted(train.ids)


def test_images_are_the_source_rescaled_to_bytes() -> None:
    split = load_split("test")
    assert split.images.shape == (297, 8, 8)
    assert split.images.dtype == np.uint8
    assert split.images.min() == 0
    assert split.images.max() == 255
    index = [int(name.removeprefix("digits-")) for name in split.ids]
    source = load_digits()
    np.testing.assert_array_equal(np.round(split.images / 255.0 * 16), source.images[index])
    np.testing.assert_array_equal(split.labels, source.target[index])


def test_the_split_never_moves() -> None:
    assert load_split("test").ids[:4] == ("digits-0011", "digits-0023", "digits-0024", "digits-0025")


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="'valid'"):
        load_split("valid")  # type: ignore[arg-type]
