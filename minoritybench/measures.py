"""From features and scores to the metric records of a run."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minoritybench.errors import BadInputError
from minoritybench.feature_metrics import TRAINING, Chosen, Real, board_metrics, chosen_metrics
from minoritybench.features import Space, known_facts
from minoritybench.measure_shard import score_key
from minoritybench.metrics import MetricValue, mean_jepa_score, minority_share, t_interval
from minoritybench.metrics.uncertainty import GROUPS, cut, delete_groups, jackknife_interval
from minoritybench.records import BenchmarkSpec, MetricRecord, RunRecord, metric_id
from minoritybench.references import LoadedReference
from minoritybench.registry import code_digests
from minoritybench.store import digest_of
from minoritybench.text_metrics import TextChoice, text_choices

Arrays = Mapping[str, NDArray[Any]]
Measure = Callable[[Arrays], MetricValue]
RealSides = Mapping[tuple[str, Space], Real]
"""The real side by what it is measured against and the space."""

NO_WEIGHTS: Mapping[str, str | None] = MappingProxyType({})
OVER_IMAGES = "t over images"
JACKKNIFE = f"delete-group jackknife over samples, {GROUPS} groups"
_log = logging.getLogger(__name__)


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
    """A metric of a run before it is measured: how it is called, what it depends on, how one seed's value is got.

    `per_image` gives the values `(M,)` it is the mean of, where it is one; `ideal` what a perfect generator is expected
    to reach with M samples; `range` the values it can take. One that is not `required` may be absent from a record.
    """

    name: str
    direction: str
    params: dict[str, Any]
    measure: Measure
    per_image: Callable[[Arrays], NDArray[Any]] | None = None
    ideal: Callable[[int], float | None] = field(default=lambda n: None)
    range: tuple[float, float] = (-math.inf, math.inf)
    required: bool = True

    @property
    def by_image(self) -> bool:
        """Whether it follows from the values of the images, which per_image.parquet holds, and needs no features."""
        return self.per_image is not None and not {"encoder", "model"}.isdisjoint(self.params)


def metric_records(
    plans: Sequence[MetricPlan], groups: Mapping[str, Arrays], treatment: Mapping[str, Any]
) -> tuple[list[MetricRecord], list[str]]:
    """Measure every metric on every seed's arrays: mean over seeds with a 95 % t-interval; for a single sample set a
    t-interval over images or the delete-group jackknife, cut at the metric's range. Also says which metrics came out
    undefined and are left out.

    `treatment` is what was done to all samples before they were measured; it belongs to every metric's parameters.
    """
    values = {plan.name: {seed: plan.measure(arrays) for seed, arrays in groups.items()} for plan in plans}
    defined = [plan for plan in plans if all(math.isfinite(v.value) for v in values[plan.name].values())]
    intervals = _single_set_intervals(defined, values, next(iter(groups.values()))) if len(groups) == 1 else {}
    records = [_metric_record(plan, values[plan.name], treatment, intervals.get(plan.name)) for plan in defined]
    gone = [plan.name for plan in plans if plan not in defined]
    return records, [f"{name} is undefined for these samples and left out" for name in gone]


def _metric_record(
    plan: MetricPlan,
    values: Mapping[str, MetricValue],
    treatment: Mapping[str, Any],
    single: tuple[float, float, str] | None,
) -> MetricRecord:
    first = next(iter(values.values()))
    params = {**plan.params, **first.params, **treatment}
    mean, low, high = t_interval([value.value for value in values.values()])
    method = None
    if single is not None:
        low, high, method = single
    return MetricRecord.model_validate(
        {
            "id": metric_id(plan.name, params),
            "name": plan.name,
            "value": mean,
            "ci_low": low,
            "ci_high": high,
            "direction": plan.direction,
            "params": params,
            "per_seed": {seed: value.value for seed, value in values.items()},
            "interval": method,
            "ideal": plan.ideal(int(params["n_fake"])),
            "details": {key: float(np.mean([v.details[key] for v in values.values()])) for key in first.details},
        }
    )


def _single_set_intervals(
    plans: Sequence[MetricPlan], values: Mapping[str, Mapping[str, MetricValue]], arrays: Arrays
) -> dict[str, tuple[float, float, str]]:
    """Intervals of one sample set by metric name; none for a set too small to leave groups out of."""
    found: dict[str, tuple[float, float, str]] = {}
    for plan in plans:
        if plan.per_image is not None:
            _, low, high = t_interval(list(plan.per_image(arrays)))
            if low is not None and high is not None:
                found[plan.name] = (*cut((low, high), plan.range), OVER_IMAGES)
    sets = [plan for plan in plans if plan.per_image is None]
    count = len(next(iter(arrays.values())))
    without: dict[str, list[float]] = {plan.name: [] for plan in sets}
    try:
        for kept in delete_groups(count):
            rest = {key: array[kept] for key, array in arrays.items()}
            for plan in sets:
                without[plan.name].append(plan.measure(rest).value)
    except BadInputError as error:
        _log.warning("%d samples are too few for a jackknife, so there are no intervals: %s", count, error)
        return found
    for plan in sets:
        if all(map(math.isfinite, without[plan.name])):
            value = next(iter(values[plan.name].values())).value
            found[plan.name] = (*cut(jackknife_interval(value, without[plan.name]), plan.range), JACKKNIFE)
    return found


def plan_metrics(
    benchmark: BenchmarkSpec,
    reference: LoadedReference,
    real: RealSides,
    extractors: Mapping[str, Mapping[str, Any]],
    judges: Judges,
    text: Mapping[str, str | None] = NO_WEIGHTS,
) -> list[MetricPlan]:
    """The metrics of a benchmark, in the order of its board; `extractors` gives what of each belongs to the parameters
    (`minoritybench.features.metric_facts`), `text` the weights of the models of image and prompt by the key of their
    metric. `real` is looked at only when a metric is measured."""
    plans = [
        _text_plan(chosen, text.get(chosen.key))
        if isinstance(chosen, TextChoice)
        else _feature_plan(chosen, reference, real, extractors[chosen.space.extractor])
        for chosen in board_metrics(benchmark)
    ]
    plans += _score_plans(judges)
    return [*plans, *_share_plan(reference, judges)]


def wanted_spaces(benchmark: BenchmarkSpec) -> dict[str, list[Space]]:
    """The feature spaces that a benchmark needs of the real images, by what they are measured against; what needs no
    real images is left out."""
    found: dict[str, list[Space]] = {}
    for chosen in chosen_metrics(benchmark):
        if chosen.metric.paired and chosen.space not in found.setdefault(chosen.against, []):
            found[chosen.against].append(chosen.space)
    return found


def fake_spaces(benchmark: BenchmarkSpec) -> tuple[Space, ...]:
    """The feature spaces that a benchmark needs of the samples."""
    return tuple(dict.fromkeys(chosen.space for chosen in chosen_metrics(benchmark)))


def _feature_plan(
    chosen: Chosen, reference: LoadedReference, real: RealSides, extractor: Mapping[str, Any]
) -> MetricPlan:
    metric, k, where, key = chosen.metric, chosen.k, (chosen.against, chosen.space), chosen.space.key
    params: dict[str, Any] = {"features": chosen.space.extractor, **extractor, **metric.params}
    if chosen.space.layer is not None:
        params["layer"] = chosen.space.layer
    if k is not None:
        params["k"] = k
    if metric.paired and chosen.against == TRAINING:
        whole = reference.recipe.dataset
        params |= {
            "against": TRAINING,
            "training_sha256": digest_of(whole),
            "n_real": whole["n"] - reference.recipe.failures,
        }
    elif metric.paired:
        params["reference_set"] = reference.recipe.sha256

    def side() -> Any:
        return real[where] if metric.paired else None

    per_image, ideal = metric.per_image, metric.ideal
    return MetricPlan(
        chosen.name,
        metric.direction,
        params,
        lambda arrays: metric.value(side(), arrays[key], k),
        None if per_image is None else lambda arrays: per_image(side(), arrays[key], k),
        lambda n: None if ideal is None else ideal(side(), n, k),
        metric.range,
        chosen.required,
    )


def _text_plan(chosen: TextChoice, weights_sha256: str | None) -> MetricPlan:
    def values(arrays: Arrays) -> NDArray[Any]:
        return np.asarray(arrays[chosen.key])

    def mean(arrays: Arrays) -> MetricValue:
        found = values(arrays)
        return MetricValue(float(found.mean()), params={"n_fake": len(found)})

    params = {"model": chosen.model, "weights_sha256": weights_sha256}
    return MetricPlan(chosen.name, "higher", params, mean, values, range=chosen.range, required=chosen.required)


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
            _scores(encoder, mode),
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
    scores, limit = _scores(ranked_by, "deflated"), threshold

    def share(arrays: Arrays) -> MetricValue:
        return minority_share(scores(arrays), threshold=limit)

    params = {
        "encoder": ranked_by,
        "weights_sha256": judges.weights[ranked_by],
        "reference_set": reference.recipe.sha256,
    }
    return [
        MetricPlan("minority share", "higher", params, share, lambda arrays: scores(arrays) <= limit, range=(0.0, 1.0))
    ]


def _mean_score(encoder: str, mode: str) -> Measure:
    scores = _scores(encoder, mode)
    return lambda arrays: mean_jepa_score(scores(arrays))


def _scores(encoder: str, mode: str) -> Callable[[Arrays], NDArray[Any]]:
    key = score_key(encoder, mode)
    return lambda arrays: np.asarray(arrays[key])


def recorded_plans(record: RunRecord, benchmark: BenchmarkSpec, reference: LoadedReference) -> list[MetricPlan]:
    """The metrics that a benchmark demands of a record with these judges; no real images are opened.

    Error: weights that the record does not list.
    """
    encoder = record.encoder
    absent = sorted({encoder.guide, *encoder.judges} - set(encoder.weights_sha256))
    if absent:
        raise BadInputError(f"encoder.weights_sha256 lacks {', '.join(absent)}")
    judges = Judges(encoder.guide, tuple(encoder.judges), encoder.weights_sha256)
    extractors = {name: known_facts(name) for name in extractor_names(benchmark)}
    text = {choice.key: choice.known_digest() for choice in text_choices(benchmark)}
    return plan_metrics(benchmark, reference, {}, extractors, judges, text)


def extractor_names(benchmark: BenchmarkSpec) -> list[str]:
    """The extractors of a benchmark, each once."""
    spaces: Iterable[Space] = fake_spaces(benchmark)
    return list(dict.fromkeys(space.extractor for space in spaces))
