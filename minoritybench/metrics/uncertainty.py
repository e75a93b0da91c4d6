"""Intervals that mean something: over seeds (`t_interval`), within one sample set, and between paired ones.

Never a bootstrap of a set metric: draws with replacement hold duplicates, which raise the bias of a Frechet distance
and empty the balls of nearest neighbours (docs/uncertainty.md shows by how much).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minoritybench.errors import BadInputError
from minoritybench.metrics.value import MetricValue, t_interval

GROUPS = 10


def jackknife(
    metric: Callable[[NDArray[Any]], MetricValue], fake: NDArray[Any], *, groups: int = GROUPS, seed: int = 0
) -> MetricValue:
    """A metric of one sample set `(M, ...)` with its 95 % delete-group jackknife interval.

    Reference: Kott 2001, "The delete-a-group jackknife". `groups` random groups of samples are left out in turn; with
    theta_i the value without group i, `SE^2 = (K - 1) / K sum (theta_i - mean)^2` and the interval is Student's with
    K - 1 degrees of freedom, around the value of the whole set. It covers the spread of fresh sample sets of this size
    against the same reference; a bias that depends on the size stays in value and interval alike.
    """
    if not 2 <= groups <= len(fake):
        raise BadInputError(f"a jackknife needs 2 to {len(fake)} groups of {len(fake)} samples, not {groups}")
    from scipy.stats import t

    whole = metric(fake)
    member = np.random.default_rng(seed).permutation(len(fake)) % groups
    without = np.array([metric(fake[member != group]).value for group in range(groups)])
    error = float(np.sqrt((groups - 1) / groups * ((without - without.mean()) ** 2).sum()))
    half = float(t.ppf(0.975, groups - 1)) * error
    params = {**whole.params, "interval": "delete-group jackknife", "groups": groups}
    return MetricValue(whole.value, whole.value - half, whole.value + half, params, whole.details)


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean of `ours - theirs` over images drawn from the same prompt and noise, with a 95 % t-interval."""
    if len(ours) != len(theirs):
        raise BadInputError(f"{len(ours)} values cannot be paired with {len(theirs)}")
    return t_interval(list(np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)))
