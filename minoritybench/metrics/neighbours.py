"""Nearest neighbours in a feature space: how far off the beaten track each point lies. High: rare.

Reference: AvgkNN, Sehwag et al. 2022 (k = 5); local outlier factor, Breunig et al. 2000 (k = 20, as its common
implementation has it). Distances are Euclidean, in float64 and exact (no expanded square), so a duplicate lies at
distance zero and the block size enters no result. Cost grows with the square of the number of points.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from minoritybench.errors import BadInputError
from minoritybench.metrics.value import checked_features
from minoritybench.microbatch import torch_threads

AVGKNN_K = 5
LOF_K = 20
_BLOCK = 256
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
    alone = reference is None
    rows = torch.from_numpy(checked_features("feature", features, 1))
    others = rows if alone else torch.from_numpy(checked_features("reference", reference, 1))
    if k < 1 or k > len(others) - alone:
        raise BadInputError(f"{k} nearest neighbours need more than {k - 1 + alone} images, not {len(others)}")
    parts = []
    with torch_threads(1):
        for start in range(0, len(rows), _BLOCK):
            block = torch.cdist(rows[start : start + _BLOCK], others, compute_mode="donot_use_mm_for_euclid_dist")
            if alone:
                block.diagonal(start).fill_(torch.inf)
            parts.append(block.topk(k, largest=False))
    return torch.cat([p.values for p in parts]).numpy(), torch.cat([p.indices for p in parts]).numpy()
