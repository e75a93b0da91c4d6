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
from minoritybench.metrics.value import MetricValue, checked_features, paired_features

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


def local_outlier_factor(features: Any, k: int = LOF_K, *, reference: Any = None) -> Floats:
    """LOF `(N,)` of each row of `(N, D)` among the rows of `reference` (novelty detection), by default among the others
    of `features` itself: near 1 within a cluster, above 1 outside."""
    if reference is None:
        distances, indices = nearest(features, k)
        own = density = _reach_density(distances, indices, distances[:, -1])
    else:
        inner, places = nearest(reference, k)
        density = _reach_density(inner, places, inner[:, -1])
        distances, indices = nearest(features, k, reference=reference)
        own = _reach_density(distances, indices, inner[:, -1])
    factor: Floats = density[indices].mean(axis=1) / own
    return factor


def avgknn(*, real: Any, fake: Any, k: int = AVGKNN_K) -> MetricValue:
    """Mean over fake points of the mean distance to their k nearest real ones. Higher: rarer samples, but artefacts
    raise it too, so read it beside precision."""
    real, fake = paired_features(real, fake, minimum=1, keep_float32=True)
    values = mean_neighbour_distance(fake, k, reference=real)
    return MetricValue(float(values.mean()), params={"k": k, "n_real": len(real), "n_fake": len(fake)})


def lof(*, real: Any, fake: Any, k: int = LOF_K) -> MetricValue:
    """Mean local outlier factor of fake points among real ones. Higher: rarer samples, or artefacts; read it beside
    precision."""
    real, fake = paired_features(real, fake, minimum=1, keep_float32=True)
    values = local_outlier_factor(fake, k, reference=real)
    return MetricValue(float(values.mean()), params={"k": k, "n_real": len(real), "n_fake": len(fake)})


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


def _reach_density(distances: Floats, indices: NDArray[np.int64], radii: Floats) -> Floats:
    """Local reachability density `(N,)`: one over the mean distance to k neighbours, none taken as nearer than the
    neighbour's own k-th."""
    density: Floats = 1.0 / (np.maximum(distances, radii[indices]).mean(axis=1) + _SAME_PLACE)
    return density
