"""Sample, measure, record: the chain behind `minoritybench evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from minoritybench.data.folder import FolderSource
from minoritybench.data.source import ImageDecodeError, SourceSpec
from minoritybench.encoders import load_encoder
from minoritybench.engine import run_shards
from minoritybench.errors import BadInputError
from minoritybench.features import load_extractor
from minoritybench.measure_shard import (
    MODES,
    STAGE,
    MeasurePlan,
    extractor_features,
    feature_key,
    load_measurements,
    measure_shard,
    score_key,
)
from minoritybench.measures import Judges, metric_records, plan_metrics
from minoritybench.progress import track
from minoritybench.provenance import environment, peak_memory_bytes, tool_record, utc_now
from minoritybench.records import (
    Artifact,
    BenchmarkSpec,
    Cost,
    EncoderRecord,
    GeneratorRecord,
    MethodRecord,
    ReferenceRecord,
    RunRecord,
    SamplingRecord,
    load_benchmark,
    load_record,
)
from minoritybench.references import LoadedReference, load_reference_set
from minoritybench.report.pictures import contact_sheet, png_bytes
from minoritybench.sampling import SampleOutcome, SamplePlan, SampleRequest, draw, make_plan
from minoritybench.store import (
    Receipts,
    atomic_path,
    digest_of,
    folder_lock,
    open_output,
    pretty_json,
    refuse_overlap,
    sha256_file,
    write_bytes,
    write_text,
)

RECORD_FILE = "record.json"
PER_IMAGE_FILE = "per_image.parquet"
SHEET_FILE = "sheet.png"
_SHEET_IMAGES = 64


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


def evaluate(method: str | None = None, *, samples: Path | str | None = None, **options: Any) -> RunRecord:
    """Evaluate a method, or a folder of samples, on a benchmark and return the run record.

    Options are the fields of `SampleRequest` and `EvaluateRequest`; `settings` may be a dict of hyperparameters.
    """
    own = {key: options.pop(key) for key in ("reference", "judges", "out", "force") if key in options}
    options["settings"] = tuple(dict(options.get("settings", ())).items())
    request = SampleRequest(method or "", **options)
    folder = None if samples is None else Path(samples)
    return run_job(prepare_job(EvaluateRequest(request, folder, workers=request.workers, **own)))


def prepare_job(request: EvaluateRequest) -> EvaluateJob:
    """Check a request, load what it names and fix its plan."""
    if bool(request.sample.method) == (request.samples is not None):
        raise BadInputError("give either --method or --samples")
    benchmark = load_benchmark(request.sample.benchmark)
    facts = _sample_facts(request)
    n = facts["n"] if request.samples is None else facts["samples"]["n"]
    if n <= benchmark.manifold_k:
        raise BadInputError(f"{n} samples are too few for precision and coverage with k={benchmark.manifold_k} (--n)")
    reference = load_reference_set(request.reference or benchmark.reference_set)
    judges = _judges(request, benchmark, reference)
    plan = {
        **facts,
        "kind": "evaluate",
        "benchmark": benchmark.name,
        "reference_set": reference.recipe.sha256,
        "judges": dict(judges.weights),
        "guide_judge": judges.guide,
    }
    name = request.sample.method.rpartition(":")[2] or "samples"
    out = request.out or Path("runs") / f"{benchmark.name}-{name}-{digest_of(plan)[:12]}"
    return EvaluateJob(request, benchmark, reference, judges, plan, out)


def run_job(job: EvaluateJob) -> RunRecord:
    """Do what is not done yet and return the record; a finished run is read back, not repeated."""
    if job.request.samples is not None:
        refuse_overlap(job.out, job.request.samples)
    with folder_lock(job.out):
        open_output(job.out, job.plan, force=job.request.force)
        path = job.out / RECORD_FILE
        if path.is_file():
            return load_record(path)
        samples = _existing(job) if job.request.samples is not None else _draw(job)
        measured = _measure(job, samples)
        record = _record(job, samples, measured)
        write_text(path, pretty_json(record.model_dump(mode="json")))
        return record


def _judges(request: EvaluateRequest, benchmark: BenchmarkSpec, reference: LoadedReference) -> Judges:
    """The guide scores as such; every other encoder of the benchmark, the reference set and `--judge` is held out."""
    guide = request.sample.guide or benchmark.guide
    ranked_by = [reference.recipe.encoder["name"]]
    others = [name for name in dict.fromkeys([*ranked_by, *benchmark.judges, *request.judges]) if name != guide]
    weights = {
        name: getattr(load_encoder(name, device=request.sample.device), "weights_sha256", None)
        for name in [guide, *others]
    }
    return Judges(guide, tuple(others), weights)


def _sample_facts(request: EvaluateRequest) -> dict[str, Any]:
    if request.samples is None:
        return make_plan(request.sample, Path())[1]
    if not request.samples.is_dir():
        raise BadInputError(f"--samples {request.samples}: no such folder of images")
    source = FolderSource(SourceSpec("folder", str(request.samples.resolve()), None, request.sample.n))
    return {"samples": {"n": len(source.ids), "fingerprint": source.fingerprint()}}


def _draw(job: EvaluateJob) -> Samples:
    folder = job.out / "samples"
    plan = _sample_plan(job, folder)
    outcome: SampleOutcome = draw(plan)
    files = tuple(str(folder / row["file"]) for row in outcome.rows)
    return Samples(files, outcome.rows, outcome.seconds, outcome.passes)


def _sample_plan(job: EvaluateJob, folder: Path) -> SamplePlan:
    return make_plan(job.request.sample, folder)[0]


def _existing(job: EvaluateJob) -> Samples:
    """Images made elsewhere, as one group; each must decode."""
    assert job.request.samples is not None
    source = FolderSource(SourceSpec("folder", str(job.request.samples.resolve()), None, job.request.sample.n))
    rows = []
    for index, name in enumerate(source.ids):
        try:
            image = source.load(index)
        except ImageDecodeError as error:
            raise BadInputError(f"--samples: {name}: {error}; remove or replace it") from error
        rows.append({"file": name, "seed": None, "index": index, "label": None, "sha256": image.sha256})
    return Samples(tuple(str(source.root / name) for name in source.ids), rows, 0.0, {})


def _measure(job: EvaluateJob, samples: Samples) -> dict[str, NDArray[Any]]:
    plan = MeasurePlan(
        out=str(job.out),
        token=digest_of(job.plan),
        files=samples.files,
        encoders=tuple(job.judges.weights),
        extractors=tuple(job.benchmark.features),
        device=job.request.sample.device,
    )
    receipts = Receipts(job.out, STAGE)
    pending = [shard for shard in range(plan.shards) if receipts.read(shard) is None]
    shards = run_shards(measure_shard, plan, pending, job.request.workers)
    for _ in track(shards, total=plan.shards, done=plan.shards - len(pending), label="measuring"):
        pass
    return load_measurements(plan)


def _record(job: EvaluateJob, samples: Samples, measured: Mapping[str, NDArray[Any]]) -> RunRecord:
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
        minoritybench=tool_record(),
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
            class_conditional=job.request.sample.class_conditional,
        ),
        reference_set=ReferenceRecord(name=reference.recipe.name, sha256=reference.recipe.sha256, n=reference.recipe.n),
        metrics=metric_records(plans, groups),
        failures=[],
        environment=environment(job.request.sample.device),
        cost=_cost(samples, count),
        artifacts=_sidecars(job, samples, measured),
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
    return MethodRecord(**method)


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
        peak_memory_bytes=peak_memory_bytes(),
        nfe=samples.passes.get("denoiser_forward", 0),
        encoder_passes=sum(encoder.values()),
        passes=samples.passes,
    )


def _warnings(job: EvaluateJob, n: int) -> list[str]:
    """What a reader of the numbers should know."""
    recipe, weights = job.reference.recipe, job.judges.weights
    ranked_by = recipe.encoder["name"]
    warnings = []
    if ranked_by in weights and weights[ranked_by] != recipe.encoder["weights_sha256"]:
        warnings.append(f"reference set {recipe.name!r} was ranked by other weights of {ranked_by} than score here")
    if n < job.benchmark.n:
        warnings.append(
            f"n={n} a seed is below the benchmark's {job.benchmark.n}: distances and coverage depend on n,"
            " so these do not compare with the board"
        )
    return warnings


def _sidecars(job: EvaluateJob, samples: Samples, measured: Mapping[str, NDArray[Any]]) -> list[Artifact]:
    """Per-image values and a sheet of the first images, each listed with its digest."""
    table = pd.DataFrame(samples.rows)[["seed", "index", "label", "sha256"]].astype({"seed": "Int64", "label": "Int64"})
    for encoder in job.judges.weights:
        for mode in MODES:
            table[score_key(encoder, mode)] = measured[score_key(encoder, mode)]
    with atomic_path(job.out / PER_IMAGE_FILE) as part:
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None), part)
    source_files = [Path(name) for name in samples.files[:_SHEET_IMAGES]]
    write_bytes(job.out / SHEET_FILE, png_bytes(_sheet(source_files)))
    return [
        Artifact(path=name, sha256=sha256_file(job.out / name), bytes=(job.out / name).stat().st_size)
        for name in (PER_IMAGE_FILE, SHEET_FILE)
    ]


def _sheet(files: list[Path]) -> NDArray[np.uint8]:
    from PIL import Image

    first = [np.asarray(Image.open(path).convert("RGB")) for path in files]
    shape = first[0].shape
    return contact_sheet([image for image in first if image.shape == shape], columns=8, tile=32)
