"""What can be wrong with a run record: everything that its benchmark, its method or its sidecars contradict.

Nothing a record names is imported unless the registry lists it, and every fault is one line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from minoritybench.command_checks import LONGEST_COMMAND, command_faults, request_faults
from minoritybench.data.prompts import load_prompts
from minoritybench.diffusion.model import DiffusionModel
from minoritybench.embedded.weights import SHIPPED_GENERATORS, shipped_digest
from minoritybench.errors import MinorityBenchError, MissingAssetError
from minoritybench.measures import Arrays, MetricPlan, recorded_plans
from minoritybench.methods import check_known, configure
from minoritybench.metrics import t_interval
from minoritybench.plain_text import text_faults
from minoritybench.records import (
    BenchmarkSpec,
    MetricRecord,
    RunRecord,
    TextSpec,
    load_benchmark,
    metric_id,
    validated,
)
from minoritybench.references import LoadedReference, load_reference_set
from minoritybench.registry import lookup, resolve
from minoritybench.sheet_checks import read_tiles, tile_faults
from minoritybench.sidecars import PER_IMAGE_FILE, SHEET_FILE, read_values
from minoritybench.store import canonical_json, sha256_file

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_TABLE_TEXT = re.compile(r"[\w.:/@+,' -]*")
_ENCODER_NAME = re.compile(r"[\w.:/@+-]+")  # names stand in table cells


def content_faults(record: RunRecord, document: Any, *, superseded: bool = False) -> Iterator[str]:
    """Faults of a record by itself; `document` is the JSON it was read from.

    One that another supersedes stands on no board any more. It must be as it was written, but is not held against
    methods and metrics that have changed since.
    """
    if record.id != record.content_id():
        yield "its id is not the digest of its content: it was edited"
    if canonical_json(document) != canonical_json(record.model_dump(mode="json")):
        yield "fields are left out or of another type than minoritybench writes"
    yield from text_faults(document, {"command": LONGEST_COMMAND})
    yield from command_faults(record)
    if superseded:
        return
    try:
        benchmark = load_benchmark(record.benchmark)
        reference = load_reference_set(benchmark.reference_set)
    except MinorityBenchError as error:
        yield str(error)
        return
    parts = (_origin_faults, _method_faults, _sampling_faults, _text_faults, _judge_faults, _metric_faults)
    for part in (*parts, request_faults):
        try:
            yield from part(record, benchmark, reference)
        except MinorityBenchError as error:
            yield str(error)


def sidecar_faults(record: RunRecord, folder: Path, *, superseded: bool = False) -> Iterator[str]:
    """Faults of the files beside a record, and unless it is superseded what its per-image scores say of its metrics and
    of the samples on its sheet."""
    names = [artifact.path for artifact in record.artifacts]
    if sorted(names) != [PER_IMAGE_FILE, SHEET_FILE]:
        yield f"artifacts are {', '.join(map(repr, names)) or 'none'}; they must be {PER_IMAGE_FILE} and {SHEET_FILE}"
        return
    faults = []
    for artifact in record.artifacts:
        path = folder / artifact.path
        if not path.is_file() or path.is_symlink():
            faults.append(f"sidecar {artifact.path} is missing")
        elif path.stat().st_size != artifact.bytes:
            faults.append(f"sidecar {artifact.path} has {path.stat().st_size} bytes, the record says {artifact.bytes}")
        elif sha256_file(path) != artifact.sha256:
            faults.append(f"sidecar {artifact.path} differs from its digest")
    yield from faults
    if faults:
        return
    try:
        benchmark = load_benchmark(record.benchmark)
        if superseded:
            read_tiles(folder / SHEET_FILE, record, benchmark)
            return
        values = read_values(record, benchmark, folder / PER_IMAGE_FILE)
        yield from _score_faults(record, benchmark, values)
        yield from tile_faults(read_tiles(folder / SHEET_FILE, record, benchmark), record, benchmark, values)
    except MinorityBenchError as error:
        yield str(error)


def _origin_faults(record: RunRecord, benchmark: BenchmarkSpec, reference: LoadedReference) -> Iterator[str]:
    """Who made the record, when, from which code and with which generator."""
    if record.status != "complete":
        yield f"status is {record.status!r}"
    if record.minoritybench.commit is None or record.minoritybench.dirty is not False:
        yield "made from a dirty tree or outside a git checkout: commit first, then measure"
    elif not _COMMIT.fullmatch(record.minoritybench.commit):
        yield f"minoritybench.commit {record.minoritybench.commit!r} is not a git commit"
    if not _is_moment(record.created):
        yield f"created {record.created!r} is not an ISO 8601 time with its zone"
    used, known = record.reference_set, reference.recipe
    if used.sha256 != known.sha256:
        yield f"measured against another reference set ({used.sha256[:12]}) than the benchmark's ({known.sha256[:12]})"
    elif (used.name, used.n) != (known.name, known.n):
        yield f"reference_set is {used.name!r} with n={used.n}, that digest is {known.name!r} with n={known.n}"
    if record.tolerance != benchmark.tolerance:
        yield f"tolerance {record.tolerance} is not the benchmark's {benchmark.tolerance}"
    yield from _generator_faults(record, benchmark)


@lru_cache
def _shipped_generator(name: str) -> tuple[str, str]:
    """Digest and precision of a generator that is part of the package."""
    generator: DiffusionModel = resolve("generators", name)(name)
    return generator.weights_sha256, generator.dtype


def _generator_faults(record: RunRecord, benchmark: BenchmarkSpec) -> Iterator[str]:
    if record.generator.name != benchmark.generator:
        yield f"generator {record.generator.name!r} is not the benchmark's {benchmark.generator!r}"
    elif benchmark.generator in SHIPPED_GENERATORS:
        shipped, dtype = _shipped_generator(benchmark.generator)
        if record.generator.weights_sha256 != shipped:
            yield f"generator weights {_short(record.generator.weights_sha256)} are not the shipped {_short(shipped)}"
        if record.generator.dtype != dtype:
            yield f"generator dtype is {record.generator.dtype!r}, not {dtype!r}"


def _method_faults(record: RunRecord, benchmark: BenchmarkSpec, reference: LoadedReference) -> Iterator[str]:
    """Method, hyperparameters and preset exist, and the chain is the benchmark's."""
    name, params = record.method.name, record.method.params
    if name == "samples":
        yield "made from given samples; only runs of a registered method are ranked"
        return
    check_known(name)  # before anything is resolved: a name may be path/to/file.py:X, and importing runs it
    method = configure(name, {**params, "preset": record.method.preset}, benchmark)
    for key in sorted(set(method.params) | set(params)):
        if key not in params:
            yield f"method.params lacks {key!r}"
        elif key not in method.params:
            yield f"method.params has {key!r}, which {name} has not"
        elif canonical_json(params[key]) != canonical_json(method.params[key]):
            yield f"method.params.{key} is {params[key]!r}, which {name} would write as {method.params[key]!r}"
    for key, value in {**params, **record.sampling.text}.items():
        if isinstance(value, str) and not _TABLE_TEXT.fullmatch(value):
            yield f"{key} is {value!r}, with characters that cannot stand in a table"
    if record.sampling.steps != benchmark.steps:
        yield f"sampling.steps is {record.sampling.steps}, the benchmark's are {benchmark.steps}"
    own = getattr(method.instance, "spacing", "") if benchmark.text is None else record.sampling.text.get("spacing")
    spacing = f"{own}{benchmark.steps}"
    if record.sampling.spacing != spacing:
        yield f"sampling.spacing is {record.sampling.spacing!r}, that of {name} is {spacing!r}"


def _sampling_faults(record: RunRecord, benchmark: BenchmarkSpec, reference: LoadedReference) -> Iterator[str]:
    """Enough samples of the right seeds, at a cost that adds up."""
    sampling, cost = record.sampling, record.cost
    if sampling.n < benchmark.n:
        yield f"n={sampling.n} is below the benchmark's {benchmark.n}"
    if sorted(sampling.seeds) != sorted(benchmark.seeds):  # chosen ones would share a column with the others'
        yield f"seeds {sampling.seeds} are not the benchmark's {benchmark.seeds}"
    images = sampling.n * len(sampling.seeds)
    if cost.seconds <= 0 or images < 1 or not math.isclose(cost.seconds_per_sample * images, cost.seconds):
        yield f"cost.seconds_per_sample {cost.seconds_per_sample} is not {cost.seconds} s over {images} samples"
    encoder_passes = sum(count for kind, count in cost.passes.items() if kind.startswith("encoder_"))
    if (cost.nfe, cost.encoder_passes) != (cost.passes.get("denoiser_forward", 0), encoder_passes):
        yield "cost.nfe and cost.encoder_passes are not those of cost.passes"


def _text_faults(record: RunRecord, benchmark: BenchmarkSpec, reference: LoadedReference) -> Iterator[str]:
    """How a text-to-image chain ran is all there, and prompts of the benchmark's name are the benchmark's.

    Other settings and prompts than its own are no fault: such a row is not ranked (`declared_text`). Prompts that are
    not on this machine are taken as told; the per-image table has their digest, too.
    """
    text = record.sampling.text
    if benchmark.text is None:
        if text:
            yield "sampling.text is there, and the benchmark has no prompts"
        return
    settings = {key: value for key, value in text.items() if key != "prompts_sha256"}
    spec = validated(TextSpec, settings, "sampling.text")
    if canonical_json(settings) != canonical_json(spec.model_dump(mode="json")):
        yield "sampling.text lacks settings of the chain"
    if spec.prompts != benchmark.text.prompts:
        return
    try:
        expected = load_prompts(benchmark.text.prompts).first(record.sampling.n).sha256
    except MissingAssetError:
        return
    if text.get("prompts_sha256") != expected:
        yield f"sampling.text.prompts_sha256 is not that of the first {record.sampling.n} prompts of {spec.prompts}"


def _judge_faults(record: RunRecord, benchmark: BenchmarkSpec, reference: LoadedReference) -> Iterator[str]:
    """The encoders that had to judge did, each with its own weights."""
    guide, judges, weights = record.encoder.guide, record.encoder.judges, record.encoder.weights_sha256
    demanded = [reference.recipe.encoder["name"], benchmark.guide, *benchmark.judges]
    missing = sorted({name for name in demanded if name not in (guide, *judges)})
    if missing:
        yield f"encoder.judges lacks {', '.join(missing)}"
    if len({guide, *judges}) != 1 + len(judges):
        yield f"encoder.judges {judges} repeats a name or the guide"
    if list(weights) != [guide, *judges]:
        yield "encoder.weights_sha256 must list the guide and the judges, in that order"
    for name, digest in weights.items():
        lookup("encoders", name)
        if not _ENCODER_NAME.fullmatch(name):
            yield f"encoder name {name!r} holds other characters than letters, digits and _.:/@+-"
        if (shipped := shipped_digest(name)) not in (None, digest):
            yield f"encoder weights {_short(digest)} of {name} are not the shipped {_short(shipped)}"


def _metric_faults(record: RunRecord, benchmark: BenchmarkSpec, reference: LoadedReference) -> Iterator[str]:
    """The benchmark's metrics, each with an id, a direction, a mean and an interval that follow from the rest."""
    plans = {plan.name: plan for plan in recorded_plans(record, benchmark, reference)}
    names = [metric.name for metric in record.metrics]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"metric {name!r} stands twice"
    for name, plan in plans.items():
        if plan.required and name not in names:
            yield f"metric {name!r} is missing"
    known = {
        "n_real": reference.recipe.n,
        "n_fake": record.sampling.n,
        "threshold": reference.recipe.threshold,
    }
    for metric in record.metrics:
        if metric.name not in plans:
            yield f"metric {metric.name!r} is none of the benchmark's"
            continue
        faults = _value_faults(metric, plans[metric.name].range, {str(seed) for seed in record.sampling.seeds})
        for fault in (*_plan_faults(metric, plans[metric.name], known), *faults):
            yield f"metric {metric.name!r} {fault}"


def _plan_faults(metric: MetricRecord, plan: MetricPlan, known: Mapping[str, Any]) -> Iterator[str]:
    """`known` holds what measuring adds to a metric's params; weights that are not shipped cannot be compared."""
    if metric.direction != plan.direction:
        yield f"has direction {metric.direction!r}, it is {plan.direction!r}"
    if metric.id != metric_id(metric.name, metric.params):
        yield "has an id that is not the digest of its name and params"
    if "n_fake" not in metric.params:
        yield "has no params.n_fake"
    expected = {key: value for key, value in {**known, **plan.params}.items() if value is not None}
    for key in sorted(set(metric.params) | set(plan.params)):
        if key not in metric.params or key not in {**known, **plan.params}:
            yield f"{'lacks' if key in plan.params else 'has the unknown'} params.{key}"
        elif key in expected and metric.params[key] != expected[key]:
            yield f"has params.{key} {_short(metric.params[key])}, not {_short(expected[key])}"


def _value_faults(metric: MetricRecord, limits: tuple[float, float], seeds: set[str]) -> Iterator[str]:
    if set(metric.per_seed) != seeds or not seeds:
        yield "lacks the value of a seed"
        return
    values = [metric.value, *metric.per_seed.values()]
    if not all(limits[0] <= value <= limits[1] for value in values):
        yield f"is outside its range, {limits[0]:g} to {limits[1]:g}"
    with np.errstate(all="ignore"):  # absurd values overflow, and then they do not fit
        mean, low, high = t_interval(list(metric.per_seed.values()))
    if not _close(metric.value, mean):
        yield "is not the mean of its seeds"
    elif metric.interval is not None:
        yield f"has an interval by {metric.interval[:60]!r}; that of a row is over its seeds"
    elif not (_close(metric.ci_low, low) and _close(metric.ci_high, high)):
        yield "has an interval that is not the 95 % t-interval of its seeds"


def _score_faults(record: RunRecord, benchmark: BenchmarkSpec, groups: Mapping[str, Arrays]) -> Iterator[str]:
    """Metrics measured again from the per-image values by seed; what needs features cannot be."""
    for plan in recorded_plans(record, benchmark, load_reference_set(benchmark.reference_set)):
        metric = record.metric(plan.name)
        if metric is None or not plan.by_image:
            continue
        for seed, arrays in groups.items():
            measured = plan.measure(arrays)
            given = {**plan.params, **measured.params}
            if "model" in given and given["weights_sha256"] is None:  # not shipped: only the record knows them
                given["weights_sha256"] = metric.params.get("weights_sha256")
            if given != metric.params:
                yield f"metric {plan.name!r} has other params than {PER_IMAGE_FILE} gives it"
            told = metric.per_seed.get(seed)
            if not _close(measured.value, told):
                yield f"metric {plan.name!r} of seed {seed} is {told}, {PER_IMAGE_FILE} gives {measured.value}"


def _is_moment(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) else repr(value)
