"""Copies of training images among samples.

Reference: Alaa et al. 2022 (authenticity); AuthPct as Stein et al. 2023 report it. A sample is authentic if its nearest
training image lies nearer to another training image than to the sample. `real` must be the whole training set, not a
reference subset. The value of a perfect generator depends on the features and their dimension (about 70 in 16-d
Gaussians), and the measure finds copies poorly in practice: look at the nearest pairs too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minoritybench.errors import BadInputError
from minoritybench.metrics.pairwise import nearest, prepare
from minoritybench.metrics.value import MetricValue, paired_features


@dataclass(frozen=True)
class NearestPairs:
    """Samples `fake` and their nearest training images `real`, row numbers `(P,)`, nearest pair first, and the
    Euclidean `distances` `(P,)`."""

    fake: NDArray[np.int64]
    real: NDArray[np.int64]
    distances: NDArray[np.float64]


def authenticity(*, real: Any, fake: Any, device: str = "cpu") -> MetricValue:
    """AuthPct, the percentage of authentic samples: `(N, D)` training and `(M, D)` sample features, N >= 2. Higher:
    fewer near copies; 0 for copies of the training set."""
    real, fake = paired_features(real, fake, minimum=1, keep_float32=True)
    if len(real) < 2:
        raise BadInputError("real features: 1 row, at least 2 are needed")
    training, samples = prepare(real, fake, device=device)
    found = nearest(samples, training, 1)
    used, which = np.unique(found.indices[:, 0], return_inverse=True)
    # Only training images that are nearest to a sample need a neighbour; each finds itself first, at distance zero.
    subset, whole = prepare(real[used], real, device=device)
    spacing = nearest(subset, whole, 2).squares[:, 1]
    authentic = spacing[which] < found.squares[:, 0]
    return MetricValue(100.0 * float(authentic.mean()), params={"n_real": len(real), "n_fake": len(fake)})


def nearest_training_images(*, real: Any, fake: Any, count: int = 20, device: str = "cpu") -> NearestPairs:
    """The `count` samples that lie nearest to a training image, for looking at."""
    real, fake = paired_features(real, fake, minimum=1, keep_float32=True)
    training, samples = prepare(real, fake, device=device)
    found = nearest(samples, training, 1)
    order = np.argsort(found.squares[:, 0], kind="stable")[:count]
    return NearestPairs(order, found.indices[order, 0], found.distances[order, 0])
