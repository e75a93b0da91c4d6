"""Sample, measure, record: the chain behind `minoritybench evaluate`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minoritybench.engine.stage import run_stage
from minoritybench.errors import BadInputError
from minoritybench.evaluate_job import EvaluateJob, EvaluateRequest, prepare_job, prompts_of_samples
from minoritybench.feature_metrics import REFERENCE
from minoritybench.features import Space, metric_facts
from minoritybench.features.cache import Crew, RealSide, all_real_sides
from minoritybench.given_samples import SAMPLES_FOLDER, colour_warning, first_pixels, open_samples, read_samples
from minoritybench.measure_shard import (
    FACTS,
    GREY,
    STAGE,
    MeasurePlan,
    Selection,
    load_measurements,
    measure_shard,
)
from minoritybench.measures import (
    fake_spaces,
    metric_records,
    plan_metrics,
    wanted_spaces,
)
from minoritybench.provenance import environment, made_by, peak_memory_bytes, utc_now
from minoritybench.records import (
    Cost,
    EncoderRecord,
    GeneratorRecord,
    MethodRecord,
    ReferenceRecord,
    RunRecord,
    SamplingRecord,
    ToolRecord,
    load_record,
)
from minoritybench.request_options import build_request, field_names
from minoritybench.sample_job import SampleRequest, make_plan
from minoritybench.sampling import SampleOutcome, draw
from minoritybench.sidecars import SHEET_IMAGES, value_columns, write_sidecars
from minoritybench.store import (
    Receipts,
    digest_of,
    folder_lock,
    open_output,
    pretty_json,
    refuse_overlap,
    sha256_file,
    write_text,
)
from minoritybench.text_metrics import text_choices

RECORD_FILE = "record.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Samples:
    """The images to measure and their manifest rows, with what they cost to make and what is odd about them."""

    images: Selection
    rows: list[dict[str, Any]]
    seconds: float
    passes: dict[str, int]
    tools: list[dict[str, Any]]
    peak_memory_bytes: int = 0
    warnings: Sequence[str] = ()


def evaluate(method: str | None = None, *, samples: Path | str | None = None, **options: Any) -> RunRecord:
    """Evaluate a method, or a folder of samples, on a benchmark and return the run record.

    Options are the fields of `SampleRequest` and `EvaluateRequest`; `settings` may be a dict of hyperparameters.
    """
    names = field_names(SampleRequest)
    drawn = {name: options.pop(name) for name in names if name in options}
    request = build_request(SampleRequest, {"method": method or ""}, drawn)
    own = {"sample": request, "samples": samples, "workers": request.workers}
    return run_job(prepare_job(build_request(EvaluateRequest, own, options, also=names)))


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
        given = job.request.samples
        samples = _draw(job) if given is None else _existing(job, given)
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


def _draw(job: EvaluateJob) -> Samples:
    folder = job.out / SAMPLES_FOLDER
    outcome: SampleOutcome = draw(make_plan(job.request.sample, folder)[0])
    files = tuple(str(folder / row["file"]) for row in outcome.rows)
    cost = (outcome.seconds, outcome.passes, outcome.tools, outcome.peak_memory_bytes)
    return Samples(Selection(files), outcome.rows, *cost)


def _existing(job: EvaluateJob, folder: Path) -> Samples:
    """Images made elsewhere, as one group."""
    given = read_samples(open_samples(folder, job.request.sample.n))
    prompts = prompts_of_samples(job.request, job.benchmark)
    rows = given.rows
    if prompts is not None:
        rows = [{**row, "prompt": text} for row, text in zip(rows, prompts.texts, strict=True)]
    (width, height), expected = given.size, job.benchmark.image_size
    odd = [f"given samples have {width} x {height} px, the benchmark's images {expected}"]
    warnings = given.warnings + odd * ((width, height) != (expected,) * 2)
    return Samples(given.images, rows, 0.0, {}, [], 0, warnings)


def _measure(job: EvaluateJob, samples: Samples) -> tuple[dict[str, NDArray[Any]], list[dict[str, Any]]]:
    """Every sample's features and scores, and the states of the code that measured them."""
    plan = MeasurePlan(
        out=str(job.out),
        token=digest_of(job.plan),
        images=samples.images,
        encoders=tuple(job.judges.weights),
        spaces=fake_spaces(job.benchmark),
        device=job.request.sample.device,
        threads=job.judges.threads,
        minmax_stretch=job.request.minmax_stretch,
        batch_size=job.request.sample.batch_size,
        text=tuple(text_choices(job.benchmark)),
        prompts=tuple(row["prompt"] for row in samples.rows) if job.text else (),
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
    request = job.request
    crew = Crew(request.sample.device, request.workers, request.sample.engine, request.sample.batch_size)
    real = all_real_sides(reference, wanted_spaces(benchmark), job.extractors, job.judges.threads, crew)
    facts = {name: metric_facts(extractor) for name, extractor in job.extractors.items()}
    plans = plan_metrics(benchmark, reference, real, facts, job.judges, job.text)
    groups = _by_seed(samples, measured)
    treatment = {"minmax_stretch": True} if job.request.minmax_stretch else {}
    metrics, undefined = metric_records(plans, groups, treatment)
    generated = job.request.samples is None
    seeds = [int(seed) for seed in groups] if generated else []
    count = len(samples.images)
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
            text=job.plan.get("text", {}),
        ),
        reference_set=ReferenceRecord(name=reference.recipe.name, sha256=reference.recipe.sha256, n=reference.recipe.n),
        metrics=metrics,
        failures=[],
        environment=environment(job.request.sample.device),
        cost=_cost(samples, count),
        artifacts=write_sidecars(
            job.out,
            first_pixels(samples.images, SHEET_IMAGES),
            samples.rows,
            value_columns(job.judges.weights, job.text),
            measured,
        ),
        tolerance=benchmark.tolerance,
        warnings=[
            *samples.warnings,
            *_colour_warnings(measured, real),
            *_warnings(job, count // max(len(groups), 1)),
            *undefined,
        ],
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
    if recipe.dataset["name"] != job.benchmark.dataset:
        warnings.append(
            f"reference set {recipe.name!r} is of {recipe.dataset['name']}, the benchmark of {job.benchmark.dataset}:"
            " its features and encoders may suit other images (--benchmark names another)"
        )
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


def _colour_warnings(measured: Mapping[str, NDArray[Any]], real: Mapping[tuple[str, Space], RealSide]) -> list[str]:
    sides = [side for (against, _), side in real.items() if against == REFERENCE]
    return colour_warning(measured[GREY], sides[0].grey) if sides else []
