"""Differences between two records, image by image: the same prompt and noise under another method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from minoritybench.measures import Arrays, MetricPlan, recorded_plans
from minoritybench.metrics.uncertainty import paired_difference
from minoritybench.records import BenchmarkSpec, RunRecord
from minoritybench.references import load_reference_set
from minoritybench.sidecars import PROMPT

BASELINE = "ddim"
Values = Callable[[RunRecord], Mapping[str, Arrays]]
"""The values of a record's images by seed (`minoritybench.sidecars.read_values`)."""
Difference = tuple[float, float | None, float | None]


def image_metrics(record: RunRecord, benchmark: BenchmarkSpec) -> dict[str, MetricPlan]:
    """The metrics of a record that are means over images, by metric id."""
    reference = load_reference_set(benchmark.reference_set)
    found = {plan.name: plan for plan in recorded_plans(record, benchmark, reference) if plan.by_image}
    return {
        metric.id: found[metric.name]
        for metric in record.metrics
        if metric.name in found
        and metric.params.get("reference_set") == found[metric.name].params.get("reference_set")  # `--reference`
    }


def differences(record: RunRecord, plain: RunRecord, benchmark: BenchmarkSpec, values: Values) -> dict[str, Difference]:
    """Mean of `record - plain` over all pairs with a 95 % interval (`paired_difference`, prompts as units where there
    are prompts), by metric id; empty where their images are no pairs."""
    if not paired(record, plain):
        return {}
    ours, theirs = values(record), values(plain)
    seeds = [str(seed) for seed in plain.sampling.seeds]
    prompts = [str(text) for seed in seeds for text in theirs[seed].get(PROMPT, ())]
    shared = {metric.id for metric in record.metrics}
    found = {}
    for name, plan in image_metrics(plain, benchmark).items():
        if name in shared and plan.per_image is not None:
            both = [np.concatenate([plan.per_image(side[seed]) for seed in seeds]) for side in (ours, theirs)]
            found[name] = paired_difference(both[0].tolist(), both[1].tolist(), prompts or None)
    return found


def paired(record: RunRecord, other: RunRecord) -> bool:
    """Whether image i of a seed has the same prompt, if any, and noise in both, and the same network drew it."""
    return bool(record.sampling.seeds) and _drawn_as(record) == _drawn_as(other)


def _drawn_as(record: RunRecord) -> tuple[Any, ...]:
    """What images of two runs have to share to be pairs."""
    said = record.sampling
    prompts = said.text.get("prompts_sha256")
    return said.n, sorted(said.seeds), prompts, said.class_conditional, record.generator, record.benchmark


def difference_text(difference: Difference) -> str:
    """Two decimals and the half-width of the interval, with a word where it excludes 0."""
    mean, low, high = difference
    if low is None or high is None:
        return f"{mean:+.2f}"
    word = ", higher" if low > 0 else ", lower" if high < 0 else ""
    return f"{mean:+.2f} ± {high - mean:.2f}{word}"
