"""From features and scores to the metric records of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minoritybench.measure_shard import feature_key, score_key
from minoritybench.metrics import (
    MetricValue,
    frechet_distance,
    manifold_metrics,
    mean_jepa_score,
    minority_share,
    t_interval,
)
from minoritybench.records import BenchmarkSpec, MetricRecord, metric_id
from minoritybench.references import LoadedReference
from minoritybench.registry import code_digests

Arrays = Mapping[str, NDArray[Any]]
Measure = Callable[[Arrays], MetricValue]


@dataclass(frozen=True)
class Judges:
    """Who scores the samples: the guide, whose score methods may optimise, and held-out encoders.

    `threads` is the torch thread count of those that name none of their own, None where all do.
    """

    guide: str
    held_out: tuple[str, ...]
    weights: Mapping[str, str | None]
    threads: int | None = None


@dataclass(frozen=True)
class MetricPlan:
    """A metric of a run before it is measured: how it is called, what it depends on, how one seed's value is got."""

    name: str
    direction: str
    params: dict[str, Any]
    measure: Measure


def metric_records(
    plans: Sequence[MetricPlan], groups: Mapping[str, Arrays], treatment: Mapping[str, Any]
) -> list[MetricRecord]:
    """Measure every metric on every seed's arrays: mean over seeds with a 95 % t-interval.

    `treatment` is what was done to all samples before they were measured; it belongs to every metric's parameters.
    """
    records = []
    for plan in plans:
        values = {seed: plan.measure(arrays) for seed, arrays in groups.items()}
        params = {**plan.params, **next(iter(values.values())).params, **treatment}
        mean, low, high = t_interval([value.value for value in values.values()])
        records.append(
            MetricRecord.model_validate(
                {
                    "id": metric_id(plan.name, params),
                    "name": plan.name,
                    "value": mean,
                    "ci_low": low,
                    "ci_high": high,
                    "direction": plan.direction,
                    "params": params,
                    "per_seed": {seed: value.value for seed, value in values.items()},
                }
            )
        )
    return records


def plan_metrics(
    benchmark: BenchmarkSpec,
    reference: LoadedReference,
    real: Arrays,
    extractor_weights: Mapping[str, str | None],
    judges: Judges,
) -> list[MetricPlan]:
    """The metrics of a benchmark, in the order of its board."""
    shared = {"reference_set": reference.recipe.sha256}
    plans = [
        MetricPlan(
            f"FD ({name})",
            "lower",
            {**shared, "features": name, "weights_sha256": extractor_weights[name]},
            _frechet(real, name),
        )
        for name in benchmark.features
    ]
    space = benchmark.manifold_features
    manifold = _manifold(real, space, benchmark.manifold_k)
    facts = {**shared, "features": space, "weights_sha256": extractor_weights[space]}
    plans += [
        MetricPlan(name, "higher", facts, _pick(manifold, name))
        for name in ("precision", "recall", "density", "coverage")
    ]
    plans += _score_plans(judges)
    return [*plans, *_share_plan(reference, judges)]


def _score_plans(judges: Judges) -> list[MetricPlan]:
    named = [
        ("JEPA-SCORE", judges.guide, "reference"),
        ("JEPA-SCORE (deflated)", judges.guide, "deflated"),
        *((f"JEPA-SCORE (held-out: {name})", name, "reference") for name in judges.held_out),
    ]
    return [
        MetricPlan(
            name,
            "lower",
            {"encoder": encoder, "weights_sha256": judges.weights[encoder], "mode": mode, "estimator": "exact"},
            _mean_score(encoder, mode),
        )
        for name, encoder, mode in named
    ]


def _share_plan(reference: LoadedReference, judges: Judges) -> list[MetricPlan]:
    """Measured by the encoder that ranked the reference set, where it is among the judges with the same weights and the
    set was ranked by exact scores: any other threshold would be one of another quantity."""
    ranked_by, threshold = reference.recipe.encoder["name"], reference.recipe.threshold
    made_by = reference.recipe.encoder
    known = ranked_by in judges.weights and judges.weights[ranked_by] == made_by["weights_sha256"]
    known = known and code_digests(ranked_by).get(ranked_by) == made_by.get("code_sha256")
    if threshold is None or not known:
        return []
    key = score_key(ranked_by, "deflated")

    def share(arrays: Arrays) -> MetricValue:
        return minority_share(arrays[key], threshold=threshold)

    params = {
        "encoder": ranked_by,
        "weights_sha256": judges.weights[ranked_by],
        "reference_set": reference.recipe.sha256,
    }
    return [MetricPlan("minority share", "higher", params, share)]


def _frechet(real: Arrays, extractor: str) -> Measure:
    key = feature_key(extractor)
    return lambda arrays: frechet_distance(real=real[key], fake=arrays[key])


def _manifold(real: Arrays, extractor: str, k: int) -> Callable[[Arrays], dict[str, MetricValue]]:
    """The four manifold metrics of a seed's arrays, computed once for each."""
    key = feature_key(extractor)
    done: dict[int, dict[str, MetricValue]] = {}

    def compute(arrays: Arrays) -> dict[str, MetricValue]:
        fake = arrays[key]
        if id(arrays) not in done:
            done[id(arrays)] = manifold_metrics(real=real[key], fake=fake, k=k)
        return done[id(arrays)]

    return compute


def _pick(manifold: Callable[[Arrays], dict[str, MetricValue]], name: str) -> Measure:
    return lambda arrays: manifold(arrays)[name]


def _mean_score(encoder: str, mode: str) -> Measure:
    key = score_key(encoder, mode)
    return lambda arrays: mean_jepa_score(np.asarray(arrays[key]))
