"""Kernel Inception Distance: squared maximum mean discrepancy under a cubic kernel. Lower is better.

Reference: Binkowski et al. 2018: `k(x, y) = (x.y / D + 1)^3`, unbiased estimate, mean over random subsets. It has no
bias from the number of samples, so it compares sets where a Frechet distance would not; it may come out negative.
Depends on the features, their resizing and, in its noise, on the subsets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from minoritybench.errors import BadInputError
from minoritybench.metrics.value import MetricValue, paired_features

SUBSETS, SUBSET_SIZE = 100, 1000


def kid(*, real: Any, fake: Any, subsets: int = SUBSETS, size: int = SUBSET_SIZE, seed: int = 0) -> MetricValue:
    """KID of `(N, D)` and `(M, D)` features: mean over `subsets` draws of `size` rows a side, without replacement.

    `size` is cut to the smaller set. The standard deviation over subsets stands in `details` under a name that says
    what it is: subsets overlap, so it is no error of the mean and makes no interval.
    """
    real, fake = paired_features(real, fake, minimum=2, keep_float32=True)
    if subsets < 1 or size < 2:
        raise BadInputError(f"KID needs 1 subset of 2 rows or more, not {subsets} of {size}")
    size = min(size, len(real), len(fake))
    rng = np.random.default_rng(seed)
    values = [
        unbiased_mmd(
            real[rng.choice(len(real), size, replace=False)].astype(np.float64),
            fake[rng.choice(len(fake), size, replace=False)].astype(np.float64),
        )
        for _ in range(subsets)
    ]
    params = {"n_real": len(real), "n_fake": len(fake), "subsets": subsets, "subset_size": size, "seed": seed}
    spread = {"sd_over_overlapping_subsets": float(np.std(values, ddof=1))} if subsets > 1 else {}
    return MetricValue(float(np.mean(values)), params=params, details=spread)


def unbiased_mmd(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Unbiased squared MMD of `(m, D)` and `(n, D)` rows under the cubic kernel: no row is compared with itself within
    a set, every pair is between them."""
    m, n = len(x), len(y)
    return _others(x) / (m * (m - 1)) + _others(y) / (n * (n - 1)) - 2 * float(_kernel(x, y).sum()) / (m * n)


def _others(x: NDArray[np.float64]) -> float:
    kernel = _kernel(x, x)
    return float(kernel.sum() - kernel.trace())


def _kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    base = x @ y.T / x.shape[1] + 1.0
    return base * base * base
