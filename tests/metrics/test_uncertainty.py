"""Paired differences against scipy, and their clustered error against draws whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from minoritybench.errors import BadInputError
from minoritybench.metrics.uncertainty import paired_difference


def pairs(count: int) -> tuple[list[float], list[float]]:
    rng = np.random.default_rng(0)
    return rng.normal(size=count).tolist(), rng.normal(0.3, size=count).tolist()


def test_without_units_it_is_the_paired_t_interval() -> None:
    ours, theirs = pairs(40)
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    for units in (None, list(range(40))):  # each pair a unit of its own says the same
        mean, low, high = paired_difference(ours, theirs, units)
        assert mean == pytest.approx(np.mean(ours) - np.mean(theirs))
        assert (low, high) == pytest.approx((expected.low, expected.high))


def test_equal_units_give_the_t_interval_over_their_means() -> None:
    ours, theirs = pairs(60)
    units = [f"prompt {number % 20}" for number in range(60)]
    means = (np.array(ours) - np.array(theirs)).reshape(3, 20).mean(0)
    expected = stats.t.interval(0.95, 19, means.mean(), stats.sem(means))
    assert paired_difference(ours, theirs, units) == pytest.approx((means.mean(), *expected))


def test_unequal_units_cover_the_truth_where_pairs_alone_do_not() -> None:
    rng = np.random.default_rng(1)
    sizes = np.tile([1, 2, 3, 6], 15)
    units = np.repeat(np.arange(len(sizes)), sizes)
    zeros = np.zeros(len(units)).tolist()
    covered = np.zeros(2)
    for _ in range(400):
        values = rng.normal(size=len(sizes))[units] + 0.5 * rng.normal(size=len(units))
        for way, given in enumerate((units.tolist(), None)):
            _, low, high = paired_difference(values.tolist(), zeros, given)
            assert low is not None
            assert high is not None
            covered[way] += low <= 0 <= high
    assert 0.91 < covered[0] / 400 < 0.98
    assert covered[1] / 400 < 0.8


def test_what_cannot_be_paired_is_one_line_and_one_prompt_has_no_interval() -> None:
    with pytest.raises(BadInputError, match="cannot be paired"):
        paired_difference([1.0], [1.0, 2.0])
    with pytest.raises(BadInputError, match="cannot be paired"):
        paired_difference([1.0, 2.0], [1.0, 2.0], ["a"])
    assert paired_difference([1.0, 3.0], [0.0, 0.0], ["a", "a"]) == (2.0, None, None)
