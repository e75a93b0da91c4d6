"""The difference of two runs in one metric, and how its interval came about: by image, by seed, or neither."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minoritybench.metrics.uncertainty import half_width
from minoritybench.metrics.value import t_interval
from minoritybench.records import MetricRecord, RunRecord
from minoritybench.report.paired import Difference

BY_IMAGE = "paired images, t"
BY_PROMPT = "paired images, t with prompts as clusters"
BY_SEED = "differences by seed, t"
WELCH = "other seeds, Welch's t over seeds"
NONE = "no interval: one set a side"


@dataclass(frozen=True)
class MetricDifference:
    """`difference` is A less B, with its 95 % interval and how that came about; `better` is the side that the interval
    favours, None where it holds 0 or is not known."""

    id: str
    name: str
    direction: str
    a: float
    b: float
    difference: float
    ci_low: float | None
    ci_high: float | None
    interval: str
    better: str | None


def metric_difference(
    ours: MetricRecord, theirs: MetricRecord, by_image: Difference | None, run: RunRecord
) -> MetricDifference:
    """One metric of two runs: from pairs of images where `by_image` has their mean difference, else from the seeds.
    `run` is either of them."""
    if by_image is None:
        (difference, low, high), told = _over_seeds(ours, theirs)
    else:
        (difference, low, high), told = by_image, BY_PROMPT if run.sampling.text else BY_IMAGE
    better = None
    if low is not None and high is not None and (low > 0 or high < 0):
        better = "A" if (low > 0) == (ours.direction == "higher") else "B"
    values = (ours.value, theirs.value, difference, low, high)
    return MetricDifference(ours.id, ours.name, ours.direction, *values, told, better)


def _over_seeds(ours: MetricRecord, theirs: MetricRecord) -> tuple[Difference, str]:
    """By seed where the seeds are the same, else between two independent groups of seeds."""
    if ours.per_seed.keys() == theirs.per_seed.keys() and len(ours.per_seed) > 1:
        return t_interval([ours.per_seed[seed] - theirs.per_seed[seed] for seed in ours.per_seed]), BY_SEED
    if min(len(ours.per_seed), len(theirs.per_seed)) < 2:
        return (ours.value - theirs.value, None, None), NONE
    return welch_difference(list(ours.per_seed.values()), list(theirs.per_seed.values())), WELCH


def welch_difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Difference of the means of two independent groups, two values or more in each, with a 95 % interval that lets
    their variances differ. Reference: Welch 1947."""
    difference = float(np.mean(ours) - np.mean(theirs))
    half = half_width([(float(np.var(side, ddof=1)) / len(side), len(side) - 1) for side in (ours, theirs)])
    return difference, difference - half, difference + half
