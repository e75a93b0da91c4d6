"""Rank correlation against scipy, and where it says nothing."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy.stats import spearmanr

from minoritybench.scoring.validity import rank_correlation


def test_rank_correlation_is_scipys_ties_included() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 20, 100), rng.normal(size=100)
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert rank_correlation(b, -np.exp(b)) == pytest.approx(-1.0)


@pytest.mark.parametrize(("a", "b"), [([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), ([3.0, 1.0], [2.0, 2.0]), ([1.0], [2.0])])
def test_what_does_not_vary_has_no_rank_correlation_and_no_warning(a: list[float], b: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(rank_correlation(np.array(a), np.array(b)))
        assert math.isnan(rank_correlation(np.array(b), np.array(a)))
