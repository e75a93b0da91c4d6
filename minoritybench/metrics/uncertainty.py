"""Intervals that mean something: over seeds (`t_interval`), within one sample set, and between paired ones.

Never a bootstrap of a set metric: draws with replacement hold duplicates, which raise the bias of a Frechet distance
and empty the balls of nearest neighbours (docs/uncertainty.md shows by how much).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minoritybench.errors import BadInputError
from minoritybench.metrics.value import MetricValue, t_interval

GROUPS = 10


def jackknife(
    metric: Callable[[NDArray[Any]], MetricValue],
    fake: NDArray[Any],
    *,
    groups: int = GROUPS,
    seed: int = 0,
    within: tuple[float, float] = (-np.inf, np.inf),
) -> MetricValue:
    """A metric of one sample set `(M, ...)` with its 95 % delete-group jackknife interval.

    Reference: Kott 2001, "The delete-a-group jackknife". `groups` random groups of samples are left out in turn; with
    theta_i the value without group i, `SE^2 = (K - 1) / K sum (theta_i - mean)^2` and the interval is Student's with
    K - 1 degrees of freedom, around the value of the whole set. It covers the spread of fresh sample sets of this size
    against the same reference; a bias that depends on the size stays in value and interval alike. `within` is the range
    the metric's values have, at which the interval ends.
    """
    whole = metric(fake)
    without = [metric(fake[kept]).value for kept in delete_groups(len(fake), groups=groups, seed=seed)]
    low, high = cut(jackknife_interval(whole.value, without), within)
    params = {**whole.params, "interval": "delete-group jackknife", "groups": groups}
    return MetricValue(whole.value, low, high, params)


def delete_groups(count: int, *, groups: int = GROUPS, seed: int = 0) -> Iterator[NDArray[np.bool_]]:
    """For each of `groups` random groups of `count` samples, which samples are left without it: bool `(count,)`."""
    if not 2 <= groups <= count:
        raise BadInputError(f"a jackknife needs 2 to {count} groups of {count} samples, not {groups}")
    member = np.random.default_rng(seed).permutation(count) % groups
    return (member != group for group in range(groups))


def jackknife_interval(value: float, without: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a metric's `value` from its values without each group in turn (see `jackknife`)."""
    from scipy.stats import t

    groups, rest = len(without), np.asarray(without)
    error = float(np.sqrt((groups - 1) / groups * ((rest - rest.mean()) ** 2).sum()))
    half = float(t.ppf(0.975, groups - 1)) * error
    return value - half, value + half


def cut(interval: tuple[float, float], within: tuple[float, float]) -> tuple[float, float]:
    """An interval less what lies outside the range of possible values, which the truth never does."""
    low, high = np.clip(interval, *within)
    return float(low), float(high)


def paired_difference(
    ours: Sequence[float], theirs: Sequence[float], units: Sequence[Any] | None = None
) -> tuple[float, float | None, float | None]:
    """Mean of `ours - theirs` over images drawn from the same prompt and noise, with a 95 % t-interval.

    Images of one prompt are alike in what a method does to them, so pairs are not independent: with `units`, the prompt
    of each pair, prompts are. With e_i the deviation of difference i from the mean of all N, and G prompts,
    `SE^2 = G / (G - 1) sum_g (sum_{i in g} e_i)^2 / N^2` with G - 1 degrees of freedom (Liang and Zeger 1986): where
    every prompt has as many pairs, exactly the t-interval over the means of the prompts.
    """
    if len(ours) != len(theirs) or (units is not None and len(units) != len(ours)):
        raise BadInputError(f"{len(ours)} values cannot be paired with {len(theirs)}, of as many prompts")
    differences = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    if units is None:
        return t_interval(list(differences))
    mean = float(differences.mean())
    variance = clustered_variance(differences - mean, units)
    if variance is None:
        return mean, None, None
    half = half_width([variance])
    return mean, mean - half, mean + half


def clustered_variance(deviations: NDArray[Any], units: Sequence[Any]) -> tuple[float, int] | None:
    """Variance of a mean of N values, from their deviations `(N,)` from it with `units` as clusters (see
    `paired_difference`), and its degrees of freedom; None of one cluster."""
    found, member = np.unique(np.asarray(units), return_inverse=True)
    if len(found) < 2:
        return None
    sums = np.bincount(member, weights=deviations)
    return len(found) / (len(found) - 1) * float((sums**2).sum()) / len(deviations) ** 2, len(found) - 1


def half_width(parts: Sequence[tuple[float, int]]) -> float:
    """Half of a 95 % interval whose variance is the sum of independently estimated ones, each with its degrees of
    freedom: Student's with `(sum v)^2 / sum v^2 / f` degrees. Reference: Satterthwaite 1946; Welch 1947."""
    from scipy.stats import t

    squared = sum(variance for variance, _ in parts)
    if squared == 0:
        return 0.0
    freedom = squared**2 / sum(variance**2 / degrees for variance, degrees in parts)
    return float(t.ppf(0.975, freedom)) * squared**0.5
