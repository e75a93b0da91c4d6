"""Nearest neighbours in a feature space: how far off the beaten track each point lies. High: rare.

Reference: AvgkNN, Sehwag et al. 2022 (k = 5); local outlier factor, Breunig et al. 2000 (k = 20, as its common
implementation has it). Distances are Euclidean and those of float64 arithmetic (`minoritybench.metrics.pairwise`), so a
duplicate lies at distance zero. Cost grows with the square of the number of points.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from minoritybench.errors import BadInputError
from minoritybench.metrics import pairwise
from minoritybench.metrics.value import checked_features

AVGKNN_K = 5
LOF_K = 20
_SAME_PLACE = 1e-10
"""Added to a mean reach distance, so that k duplicates have a finite density."""

Floats = NDArray[np.float64]


def mean_neighbour_distance(features: Any, k: int = AVGKNN_K, *, reference: Any = None) -> Floats:
    """AvgkNN: mean distance `(N,)` of each row of `(N, D)` to the k nearest rows of `reference`, by default to the k
    nearest others of `features` itself."""
    distances: Floats = nearest(features, k, reference=reference)[0].mean(axis=1)
    return distances


def local_outlier_factor(features: Any, k: int = LOF_K) -> Floats:
    """LOF `(N,)` of each row of `(N, D)` among the others: near 1 within a cluster, above 1 outside."""
    distances, indices = nearest(features, k)
    reach = np.maximum(distances, distances[indices, -1])
    density = 1.0 / (reach.mean(axis=1) + _SAME_PLACE)
    factor: Floats = density[indices].mean(axis=1) / density
    return factor


def nearest(features: Any, k: int, *, reference: Any = None) -> tuple[Floats, NDArray[np.int64]]:
    """Distances, ascending, and row numbers `(N, k)` of the k nearest rows of `reference`, or of the other rows."""
    rows = checked_features("feature", features, 1, keep_float32=True)
    others = None if reference is None else checked_features("reference", reference, 1, keep_float32=True)
    count, alone = (len(rows), True) if others is None else (len(others), False)
    if k < 1 or k > count - alone:
        raise BadInputError(f"{k} nearest neighbours need more than {k - 1 + alone} images, not {count}")
    sets = pairwise.prepare(rows) if others is None else pairwise.prepare(rows, others)
    found = pairwise.nearest(sets[0], None if others is None else sets[1], k)
    return found.distances, found.indices
