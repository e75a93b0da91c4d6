"""Sample, measure, record: the chain behind `minoritybench evaluate`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from minoritybench.data.folder import FolderSource
from minoritybench.data.source import ImageDecodeError, SourceSpec
from minoritybench.encoders import load_encoder
from minoritybench.encoders.base import encoder_facts
from minoritybench.engine import check_engine
from minoritybench.engine.stage import run_stage
from minoritybench.errors import BadInputError, MissingAssetError
from minoritybench.features import load_extractor
from minoritybench.measure_shard import (
    FACTS,
    STAGE,
    MeasurePlan,
    extractor_features,
    feature_key,
    load_measurements,
    measure_shard,
)
from minoritybench.measures import Judges, metric_records, plan_metrics
from minoritybench.provenance import environment, made_by, peak_memory_bytes, utc_now
from minoritybench.records import (
    BenchmarkSpec,
    Cost,
    EncoderRecord,
    GeneratorRecord,
    MethodRecord,
    ReferenceRecord,
    RunRecord,
    SamplingRecord,
    ToolRecord,
    load_benchmark,
    load_record,
)
from minoritybench.references import LoadedReference, load_reference_set
from minoritybench.registry import code_digests, entries
from minoritybench.request_options import build_request, field_names
from minoritybench.sample_job import SampleRequest, make_plan
from minoritybench.sampling import SampleOutcome, draw
from minoritybench.sidecars import write_sidecars
from minoritybench.store import (
    PLAN_FILE,
    Receipts,
    digest_of,
    folder_lock,
    open_output,
    pretty_json,
    refuse_overlap,
    sha256_file,
    write_text,
)

RECORD_FILE = "record.json"
SAMPLES_FOLDER = "samples"
_BROKEN_NAMED = 5

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluateRequest:
    """What `evaluate` was asked for: a method to sample with (`sample`), or `samples` made elsewhere."""

    sample: SampleRequest
    samples: Path | None = None
    reference: str | None = None
    judges: tuple[str, ...] = ()
    out: Path | None = None
    workers: int = 1
    force: bool = False
    command: str = "minoritybench.evaluate"
    minmax_stretch: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("samples", Path), ("out", Path), ("reference", str), ("judges", tuple)):
            value = getattr(self, name)
            if value is not None:  # Python callers pass paths as text and judges as a list
                object.__setattr__(self, name, kind(value))
        if bool(self.sample.method) == (self.samples is not None):
            raise BadInputError("give either --method or --samples")
        if self.samples is not None and self.sample.dtype != "float32":
            raise BadInputError(f"--dtype {self.sample.dtype}: samples are measured in float32 only")
        how = (self.sample.settings, self.sample.seeds, self.sample.class_conditional, self.sample.generator)
        if self.samples is not None and any(how):
            raise BadInputError(
                "--set, --seed, --generator and --class-conditional say how to sample; --samples are drawn already"
            )


@dataclass(frozen=True)
class EvaluateJob:
    """A request made definite: nothing has been computed or written yet."""

    request: EvaluateRequest
    benchmark: BenchmarkSpec
    reference: LoadedReference
    judges: Judges
    plan: dict[str, Any]
    out: Path


@dataclass(frozen=True)
class Samples:
    """The images to measure: files and manifest rows, with what they cost to make."""

    files: tuple[str, ...]
    rows: list[dict[str, Any]]
    seconds: float
    passes: dict[str, int]
    tools: list[dict[str, Any]]
    peak_memory_bytes: int = 0


def evaluate(method: str | None = None, *, samples: Path | str | None = None, **options: Any) -> RunRecord:
    """Evaluate a method, or a folder of samples, on a benchmark and return the run record.

    Options are the fields of `SampleRequest` and `EvaluateRequest`; `settings` may be a dict of hyperparameters.
    """
    names = field_names(SampleRequest)
    drawn = {name: options.pop(name) for name in names if name in options}
    request = build_request(SampleRequest, {"method": method or ""}, drawn)
    own = {"sample": request, "samples": samples, "workers": request.workers}
    return run_job(prepare_job(build_request(EvaluateRequest, own, options, also=names)))


def prepare_job(request: EvaluateRequest) -> EvaluateJob:
    """Check a request, load what it names and fix its plan."""
    check_engine(request.sample.engine, request.sample.device)
    benchmark = load_benchmark(request.sample.benchmark)
    _check_extractors(benchmark)
    facts = _sample_facts(request)
    n = facts["n"] if request.samples is None else facts["samples"]["n"]
    least = benchmark.manifold_k + 2
    reference = load_reference_set(request.reference or benchmark.reference_set)
    for count, what in (
        (n, "samples (--n)"),
        (reference.recipe.n, f"images of {reference.recipe.name!r} (--reference)"),
    ):
        if count < least:
            raise BadInputError(f"{count} {what} are too few: precision and coverage need {least}")
    judges = _judges(request, benchmark, reference)
    plan = {
        **facts,
        "kind": "evaluate",
        "minmax_stretch": request.minmax_stretch,
        "benchmark": benchmark.name,
        "benchmark_sha256": digest_of(benchmark.model_dump(mode="json", exclude={"title", "notes"})),
        "features": {name: load_extractor(name).weights_sha256 for name in benchmark.features},
        "reference_set": reference.recipe.sha256,
        "judges": dict(judges.weights),
        "judge_threads": judges.threads,
        "guide_judge": judges.guide,
        "code": {**facts.get("code", {}), **code_digests(*judges.weights)},
    }
    name = request.sample.method.rpartition(":")[2] or "samples"
    out = request.out or Path("runs") / f"{benchmark.name}-{name}-{digest_of(plan)[:12]}"
    return EvaluateJob(request, benchmark, reference, judges, plan, out)


def _check_extractors(benchmark: BenchmarkSpec) -> None:
    """A benchmark may name feature extractors that are still to come: it can be sampled from, not measured."""
    known = entries("features")
    missing = [name for name in dict.fromkeys([*benchmark.features, benchmark.manifold_features]) if name not in known]
    if missing:
        raise MissingAssetError(
            f"benchmark {benchmark.name!r} measures with the features {', '.join(missing)}, which this version does not"
            " have yet; `minoritybench sample` draws its samples"
        )


def run_job(job: EvaluateJob) -> RunRecord:
    """Do what is not done yet and return the record; a finished run is read back, not repeated."""
    if job.request.samples is not None:
        refuse_overlap(job.out, job.request.samples)
    if job.request.reference is not None and Path(job.request.reference).is_dir():
        refuse_overlap(job.out, Path(job.request.reference), inside=True)
    with folder_lock(job.out):
        open_output(job.out, job.plan, force=job.request.force)
        path = job.out / RECORD_FILE
        if path.is_file() and (finished := _whole_record(path)) is not None:
            return finished
        samples = _existing(job) if job.request.samples is not None else _draw(job)
        measured, tools = _measure(job, samples)
        record = _record(job, samples, measured, made_by([*samples.tools, *tools]))
        write_text(path, pretty_json(record.model_dump(mode="json")))
        return record


def _whole_record(path: Path) -> RunRecord | None:
    """A finished run's record, if it and its sidecars are as they were written; else the run is measured again."""
    try:
        record = load_record(path)
    except BadInputError as error:
        _log.warning("%s; made again", error)
        return None
    listed = all(
        (path.parent / a.path).is_file() and sha256_file(path.parent / a.path) == a.sha256 for a in record.artifacts
    )
    if record.id == record.content_id() and listed:
        return record
    _log.warning("%s or a file beside it was edited; made again", path)
    return None


def _judges(request: EvaluateRequest, benchmark: BenchmarkSpec, reference: LoadedReference) -> Judges:
    """The guide scores as such; every other encoder of the benchmark, the reference set and `--judge` is held out."""
    guide = request.sample.guide or benchmark.guide
    ranked_by = [reference.recipe.encoder["name"]] if reference.recipe.rank_by == "jepa" else []
    others = [name for name in dict.fromkeys([*ranked_by, *benchmark.judges, *request.judges]) if name != guide]
    facts = {name: encoder_facts(load_encoder(name, device=request.sample.device), name) for name in [guide, *others]}
    own = all(fact["threads"] is not None for fact in facts.values())
    return Judges(
        guide,
        tuple(others),
        {name: fact["weights_sha256"] for name, fact in facts.items()},
        threads=None if own else torch.get_num_threads(),
    )


def _sample_facts(request: EvaluateRequest) -> dict[str, Any]:
    if request.samples is None:
        return make_plan(request.sample, Path())[1]
    if not request.samples.is_dir():
        raise BadInputError(f"--samples {request.samples}: no such folder of images")
    source = _sample_folder(request)
    return {"samples": {"n": len(source.ids), "fingerprint": source.fingerprint()}, "device": request.sample.device}


def _sample_folder(request: EvaluateRequest) -> FolderSource:
    """The images below --samples; of a folder that `evaluate` left, the drawn ones and not its sheet."""
    assert request.samples is not None
    folder = request.samples.resolve()
    if (folder / PLAN_FILE).is_file() and (folder / SAMPLES_FOLDER).is_dir():
        folder = folder / SAMPLES_FOLDER
    return FolderSource(SourceSpec("folder", str(folder), None, request.sample.n))


def _draw(job: EvaluateJob) -> Samples:
    folder = job.out / SAMPLES_FOLDER
    outcome: SampleOutcome = draw(make_plan(job.request.sample, folder)[0])
    files = tuple(str(folder / row["file"]) for row in outcome.rows)
    return Samples(files, outcome.rows, outcome.seconds, outcome.passes, outcome.tools, outcome.peak_memory_bytes)


def _existing(job: EvaluateJob) -> Samples:
    """Images made elsewhere, as one group; each must decode, for a set with gaps cannot be measured."""
    source = _sample_folder(job.request)
    rows, broken = [], []
    for index, name in enumerate(source.ids):
        try:
            image = source.load(index)
        except ImageDecodeError as error:
            broken.append(f"{name}: {error}")
            continue
        rows.append({"file": name, "seed": None, "index": index, "label": None, "sha256": image.sha256})
    if broken:
        named = "; ".join(broken[:_BROKEN_NAMED])
        more = f"; and {len(broken) - _BROKEN_NAMED} more" if len(broken) > _BROKEN_NAMED else ""
        raise BadInputError(
            f"--samples: {len(broken)} of {len(source.ids)} images cannot be read, remove or replace them:"
            f" {named}{more}"
        )
    return Samples(tuple(str(source.root / name) for name in source.ids), rows, 0.0, {}, [])


def _measure(job: EvaluateJob, samples: Samples) -> tuple[dict[str, NDArray[Any]], list[dict[str, Any]]]:
    """Every sample's features and scores, and the states of the code that measured them."""
    plan = MeasurePlan(
        out=str(job.out),
        token=digest_of(job.plan),
        files=samples.files,
        encoders=tuple(job.judges.weights),
        extractors=tuple(job.benchmark.features),
        device=job.request.sample.device,
        threads=job.judges.threads,
        minmax_stretch=job.request.minmax_stretch,
    )
    facts = run_stage(
        measure_shard,
        plan,
        plan.shards,
        Receipts(job.out, STAGE, plan.token, FACTS),
        label="measuring",
        workers=job.request.workers,
        engine=job.request.sample.engine,
        device=job.request.sample.device,
    )
    return load_measurements(plan), [fact["tool"] for fact in facts]


def _record(job: EvaluateJob, samples: Samples, measured: Mapping[str, NDArray[Any]], tool: ToolRecord) -> RunRecord:
    benchmark, reference = job.benchmark, job.reference
    extractors = [load_extractor(name) for name in benchmark.features]
    images = reference.images()
    real = {feature_key(e.name): extractor_features(e, images) for e in extractors}
    plans = plan_metrics(benchmark, reference, real, {e.name: e.weights_sha256 for e in extractors}, job.judges)
    groups = _by_seed(samples, measured)
    generated = job.request.samples is None
    seeds = [int(seed) for seed in groups] if generated else []
    count = len(samples.files)
    record = RunRecord(
        created=utc_now(),
        status="complete",
        command=job.request.command,
        minoritybench=tool,
        benchmark=benchmark.name,
        method=_method_record(job),
        generator=_generator_record(job),
        encoder=EncoderRecord(
            guide=job.judges.guide,
            judges=list(job.judges.held_out),
            weights_sha256=dict(job.judges.weights),
        ),
        sampling=SamplingRecord(
            n=count // max(len(groups), 1),
            steps=benchmark.steps if generated else 0,
            seeds=seeds,
            spacing=str(job.plan.get("spacing", "")),
            class_conditional=bool(job.plan.get("class_conditional", False)),
        ),
        reference_set=ReferenceRecord(name=reference.recipe.name, sha256=reference.recipe.sha256, n=reference.recipe.n),
        metrics=metric_records(plans, groups, {"minmax_stretch": True} if job.request.minmax_stretch else {}),
        failures=[],
        environment=environment(job.request.sample.device),
        cost=_cost(samples, count),
        artifacts=write_sidecars(job.out, samples.files, samples.rows, tuple(job.judges.weights), measured),
        tolerance=benchmark.tolerance,
        warnings=_warnings(job, count // max(len(groups), 1)),
    )
    return record.model_copy(update={"id": record.content_id()})


def _by_seed(samples: Samples, measured: Mapping[str, NDArray[Any]]) -> dict[str, dict[str, NDArray[Any]]]:
    """Arrays of each seed, in the order of its images; samples made elsewhere are one group."""
    seeds = np.array(["samples" if row["seed"] is None else str(row["seed"]) for row in samples.rows])
    return {
        str(seed): {key: array[seeds == seed] for key, array in measured.items()}
        for seed in dict.fromkeys(seeds.tolist())
    }


def _method_record(job: EvaluateJob) -> MethodRecord:
    method = job.plan.get("method")
    if method is None:
        return MethodRecord(name="samples", params=dict(job.plan["samples"]), preset="none")
    return MethodRecord(**method, needs=job.plan["needs"])


def _generator_record(job: EvaluateJob) -> GeneratorRecord:
    generator = job.plan.get("generator")
    if generator is None:
        return GeneratorRecord(name="unknown", weights_sha256=None, dtype="unknown")
    return GeneratorRecord(**generator)


def _cost(samples: Samples, count: int) -> Cost:
    encoder = {key: value for key, value in samples.passes.items() if key.startswith("encoder_")}
    return Cost(
        seconds=samples.seconds,
        seconds_per_sample=samples.seconds / count,
        peak_memory_bytes=samples.peak_memory_bytes or peak_memory_bytes(),
        nfe=samples.passes.get("denoiser_forward", 0),
        encoder_passes=sum(encoder.values()),
        passes=samples.passes,
    )


def _warnings(job: EvaluateJob, n: int) -> list[str]:
    """What a reader of the numbers should know."""
    recipe, weights = job.reference.recipe, job.judges.weights
    ranked_by = recipe.encoder["name"]
    warnings = []
    if job.request.samples is not None and (size := _odd_size(job)) is not None:
        warnings.append(f"given samples have {size} px, the benchmark's images {job.benchmark.image_size}")
    if ranked_by in weights and weights[ranked_by] != recipe.encoder["weights_sha256"]:
        warnings.append(
            f"reference set {recipe.name!r} was ranked by other weights of {ranked_by} than score here:"
            " the minority share is left out"
        )
    if n < job.benchmark.n:
        warnings.append(
            f"n={n} a seed is below the benchmark's {job.benchmark.n}: distances and coverage depend on n,"
            " so these do not compare with the board"
        )
    return warnings


def _odd_size(job: EvaluateJob) -> str | None:
    """The size of the first given sample, where it is not the benchmark's."""
    height, width = _sample_folder(job.request).load(0).pixels.shape[:2]
    return None if height == width == job.benchmark.image_size else f"{width} x {height}"
