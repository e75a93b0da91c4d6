"""Does a score behave like a density? Its rank correlation with a density that owes nothing to Jacobians."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minoritybench.metrics.neighbours import AVGKNN_K, mean_neighbour_distance

MOST_IMAGES = 5000
"""Neighbours are sought among so many images at most, for their cost grows with the square."""


def rank_correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Spearman's rho of `(N,)` and `(N,)`; NaN where either does not vary."""
    from scipy.stats import spearmanr

    if min(len(np.unique(a)), len(np.unique(b))) < 2:
        return math.nan  # scipy would warn, too
    return float(spearmanr(a, b).statistic)


def knn_spearman(scores: NDArray[Any], features: NDArray[Any], *, reference: NDArray[Any] | None = None) -> float:
    """Spearman's rho of scores `(N,)` with kNN density, minus the mean Euclidean distance to the 5 nearest rows of
    `reference`, by default to the 5 nearest others of `features` `(N, D)`.

    1: low scores lie where points are sparse. A logarithm of the distance would not change ranks.
    """
    return rank_correlation(scores, -mean_neighbour_distance(features, AVGKNN_K, reference=reference))
