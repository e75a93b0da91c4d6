"""AuthPct against closed forms and all differences."""

from __future__ import annotations

import numpy as np
import pytest

from minoritybench.errors import BadInputError
from minoritybench.metrics import authenticity, nearest_training_images


def test_copies_are_none_and_strangers_all_authentic() -> None:
    train = np.random.default_rng(0).normal(size=(80, 5))
    assert authenticity(real=train, fake=train).value == 0.0
    assert authenticity(real=train, fake=train + 100).value == 100.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_agrees_with_all_differences(dtype: type) -> None:
    rng = np.random.default_rng(1)
    train, fake = rng.normal(size=(120, 6)).astype(dtype), rng.normal(size=(90, 6)).astype(dtype)
    train[3] = train[4]  # a duplicate's nearest other lies at distance zero
    fake[0] = train[3]
    between = ((fake[:, None].astype(float) - train[None].astype(float)) ** 2).sum(axis=2)
    within = ((train[:, None].astype(float) - train[None].astype(float)) ** 2).sum(axis=2)
    np.fill_diagonal(within, np.inf)
    expected = 100 * (within.min(axis=1)[between.argmin(axis=1)] < between.min(axis=1)).mean()
    assert authenticity(real=train, fake=fake).value == pytest.approx(expected, abs=1e-12)


def test_equal_distributions_are_not_half_authentic() -> None:
    """About 70 in 16 dimensions."""
    rng = np.random.default_rng(2)
    found = authenticity(real=rng.normal(size=(2000, 16)), fake=rng.normal(size=(2000, 16)))
    assert found.value == pytest.approx(70, abs=4)


def test_nearest_pairs_come_first() -> None:
    train = np.arange(10.0)[:, None]
    fake = np.array([[3.4], [7.0], [20.0], [0.1]])
    pairs = nearest_training_images(real=train, fake=fake, count=3)
    assert pairs.fake.tolist() == [1, 3, 0]
    assert pairs.real.tolist() == [7, 0, 3]
    assert pairs.distances == pytest.approx([0.0, 0.1, 0.4])
    with pytest.raises(BadInputError, match="at least 2"):
        authenticity(real=train[:1], fake=fake)
