"""The digits split."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from minoritybench.embedded.data import load_doubled_split, load_split
from minoritybench.store import sha256_bytes


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


def test_the_doubled_digits_are_the_same_digits() -> None:
    small, doubled = load_split("test"), load_doubled_split("test")
    assert doubled.ids == small.ids
    np.testing.assert_array_equal(doubled.labels, small.labels)
    assert doubled.images.shape == (297, 16, 16)
    assert doubled.images.dtype == np.uint8
    # bicubic keeps the mean but where it overshoots black or white and is clipped
    means = (doubled.images.mean(axis=(1, 2)), small.images.mean(axis=(1, 2)))
    np.testing.assert_allclose(*means, atol=8)
    assert np.corrcoef(*means)[0, 1] > 0.99


def test_the_doubling_never_moves() -> None:
    digest = sha256_bytes(load_doubled_split("train").images.tobytes())
    assert digest == "a03fdc64b8c6e84012bd11c3ce3d605b735b0fa21be5d580b72a60c13d6a54c5"
