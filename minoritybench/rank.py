"""Rank a dataset by JEPA-SCORE and keep the lowest as a reference set."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import minoritybench
from minoritybench.data.confounders import CONFOUNDERS
from minoritybench.data.source import ImageSource, SourceSpec, open_source, spec_from_argument
from minoritybench.encoders import load_encoder
from minoritybench.encoders.base import Encoder, micro_batch_of, name_of, threads_of
from minoritybench.engine import run_shards
from minoritybench.errors import BadInputError, MinorityBenchError
from minoritybench.progress import say_resumed, track
from minoritybench.rank_shard import STAGE, RankPlan, images_a_batch, score_shard, shard_file
from minoritybench.records import ReferenceSet, load_benchmark
from minoritybench.references import MEMBERS_FILE, RECIPE_FILE, index_digest, parse_keep, select_members
from minoritybench.registry import entries
from minoritybench.scoring import ESTIMATORS, Rsvd
from minoritybench.store import (
    PLAN_FILE,
    Receipts,
    atomic_path,
    digest_of,
    folder_lock,
    open_output,
    pretty_json,
    read_json,
    refuse_overlap,
    write_text,
)

SCORES_FILE = "scores.parquet"
FAILURES_FILE = "failures.csv"
GALLERY_FILE = "gallery.html"
SCORE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("sha256", pa.string()),
        ("score", pa.float64()),
        ("score_deflated", pa.float64()),
        ("rank", pa.int64()),
        ("rank_deficit", pa.int64()),
        ("proxy", pa.float64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
    ]
)
_ROW_FORMAT = 1
"""Raised whenever the same plan would give other scores: shards of an older format are then done again."""

_DEFAULT_KEEP = "10%"
_DATASET_ENCODER = "dinov2-vits14-reg"  # the published scorer's, for named datasets without a benchmark of their own
_FOLDER_ENCODER = "digits-jepa"


@dataclass(frozen=True)
class RankRequest:
    """What `rank-dataset` was asked for; None means the benchmark's or the toolkit's default."""

    dataset: str
    root: str | None = None
    split: str | None = None
    encoder: str | None = None
    weights: str | None = None
    estimator: str = "exact"
    keep: str | None = None
    per_class: int | None = None
    out: Path | None = None
    limit: int | None = None
    batch_size: int | None = None
    shard_size: int = 256
    device: str = "cpu"
    dtype: str = "float32"
    workers: int = 1
    force: bool = False


@dataclass(frozen=True)
class RankOutcome:
    """A finished ranking: where it lies, its recipe, the images that failed and what it cost."""

    out: Path
    reference_set: ReferenceSet
    failures: list[dict[str, str]]
    cost: dict[str, float]
    warnings: list[str]


@dataclass(frozen=True)
class RankJob:
    """A request made definite: source and encoder opened, plan drawn up, output folder named."""

    request: RankRequest
    source: ImageSource
    encoder: Encoder
    encoder_name: str
    keep: str
    plan: dict[str, Any]
    out: Path

    @property
    def images(self) -> int:
        """Images in the source."""
        return len(self.source.ids)

    @property
    def shards(self) -> int:
        """Shards of the plan."""
        return -(-self.images // int(self.plan["shard_size"]))


def prepare_job(request: RankRequest) -> RankJob:
    """Check a request, open what it names and fix its plan; nothing is computed or written."""
    if request.estimator not in ESTIMATORS:
        raise BadInputError(f"--estimator {request.estimator!r} is not one of: {', '.join(ESTIMATORS)}")
    if request.shard_size < 1 or (request.batch_size is not None and request.batch_size < 1):
        raise BadInputError("--shard-size and --batch-size must be at least 1")
    spec = spec_from_argument(request.dataset, request.root, request.split, request.limit)
    source = open_source(spec)
    name = request.encoder or _benchmark_default(spec, "guide", _default_encoder(spec))
    encoder = load_encoder(name, weights=request.weights, device=request.device, dtype=request.dtype)
    keep = request.keep or _benchmark_default(spec, "keep", _DEFAULT_KEEP)
    _check_selection(request, keep, source)
    plan = {
        "kind": "rank-dataset",
        "format": _ROW_FORMAT,
        "dataset": {**source.spec.as_dict(), "fingerprint": source.fingerprint()},
        "encoder": _encoder_facts(encoder, name, request),
        "estimator": _estimator_facts(request.estimator),
        "device": request.device,
        "keep": keep,
        "per_class": request.per_class,
        "shard_size": request.shard_size,
    }
    identity = digest_of({key: value for key, value in plan.items() if key != "shard_size"})
    out = request.out or Path("runs") / f"rank-{spec.name}-{identity[:12]}"
    return RankJob(request, source, encoder, name, keep, plan, out)


def _check_selection(request: RankRequest, keep: str, source: ImageSource) -> None:
    """What to keep must be possible; found out before any work, not after it."""
    if request.per_class is None:
        parse_keep(keep, len(source.ids))
        return
    if request.keep is not None:
        raise BadInputError("--keep and --per-class exclude each other")
    loose = next((name for name in source.ids if "/" not in name), None)
    if loose is not None:
        raise BadInputError(f"--per-class needs one folder a class, but {loose} lies in none")


def rank_dataset(dataset: str, **options: Any) -> RankOutcome:
    """Rank a dataset and write scores.parquet, reference_set.json, members.csv, failures.csv and gallery.html.

    Options are the fields of `RankRequest`, which are those of the command line. Work is resumed from where a killed
    run left it and the same request is never computed twice.
    """
    return run_job(prepare_job(RankRequest(dataset, **options)))


def run_job(job: RankJob) -> RankOutcome:
    """Score what is not scored yet, then write the artefacts from the shards."""
    if job.source.spec.root is not None:
        refuse_overlap(job.out, Path(job.source.spec.root))
    with folder_lock(job.out):
        job = _resumed(job)
        open_output(job.out, job.plan, force=job.request.force)
        receipts = Receipts(job.out, STAGE)
        pending = [shard for shard in range(job.shards) if receipts.read(shard) is None]
        say_resumed(job.shards - len(pending), job.shards)
        shards = run_shards(score_shard, _worker_plan(job), pending, job.request.workers)
        for _ in track(shards, total=job.shards, done=job.shards - len(pending), label="scoring"):
            pass
        return _finish(job, receipts)


def _resumed(job: RankJob) -> RankJob:
    """Keep the shard size that a started run of the same plan was cut into: no finished shard is lost."""
    marker = job.out / PLAN_FILE
    if job.request.force or not marker.is_file():
        return job
    started = read_json(marker)
    size = started.get("shard_size") if isinstance(started, dict) else None
    same = {**job.plan, "shard_size": size}
    return RankJob(**{**job.__dict__, "plan": same}) if same == started else job


def _worker_plan(job: RankJob) -> RankPlan:
    return RankPlan(
        out=str(job.out),
        token=digest_of(job.plan),
        source=job.source.spec,
        encoder=job.encoder_name,
        weights=job.request.weights,
        device=job.request.device,
        dtype=job.request.dtype,
        rsvd=Rsvd() if job.request.estimator == "rsvd" else None,
        shard_size=int(job.plan["shard_size"]),
        batch_images=images_a_batch(job.encoder, job.request.batch_size),
    )


def _finish(job: RankJob, receipts: Receipts) -> RankOutcome:
    facts = [receipts.read(shard) for shard in range(job.shards)]
    done = [fact for fact in facts if fact is not None]
    if len(done) != job.shards:
        raise MinorityBenchError(
            f"{job.shards - len(done)} shards in {job.out} did not finish; the same command resumes"
        )
    table = pa.concat_tables([pq.read_table(shard_file(job.out, shard)) for shard in range(job.shards)]).to_pandas()
    failures = [failure for fact in done for failure in fact["failures"]]
    if table.empty:
        raise BadInputError(
            f"none of the {job.images} images could be scored; the first: {failures[0]['id']}: {failures[0]['error']}"
        )
    table = _ranked(table)
    members, keep = select_members(table, job.keep, job.request.per_class)
    recipe = _recipe(job, table, members, keep, len(failures))
    spectrum = merge_moments([fact["spectrum"] for fact in done])
    warnings = _warnings(job, table, recipe)
    _write(job.out, table, members, recipe, failures)
    _write_gallery(job, table, recipe, spectrum, warnings)
    cost = {
        "seconds": sum(float(fact["seconds"]) for fact in done),
        "exact_fraction": 1.0 if job.request.estimator == "exact" else 0.0,
        "row_fraction": _row_fraction(job),
    }
    return RankOutcome(job.out, recipe, failures, cost, warnings)


def _ranked(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by id, `rank` 1 for the lowest deflated score, ties by id."""
    table = table.sort_values("id", kind="stable", ignore_index=True)
    order = table.sort_values(["score_deflated", "id"], kind="stable").index
    table.loc[order, "rank"] = np.arange(1, len(table) + 1)
    table["rank"] = table["rank"].astype("int64")
    table["proxy"] = np.nan
    return table


def _recipe(job: RankJob, table: pd.DataFrame, members: pd.DataFrame, keep: Any, failures: int) -> ReferenceSet:
    spec = job.source.spec
    scores = table["score_deflated"]
    return ReferenceSet(
        name=spec.name if spec.name != "folder" else f"folder-{index_digest(members)[:8]}",
        sha256=index_digest(members),
        n=len(members),
        rank_by="jepa",
        keep=keep,
        threshold=float(members["score_deflated"].max()),
        dataset={
            "name": spec.name,
            "split": spec.split,
            "limit": spec.limit,
            "n": len(table),
            "sha256": index_digest(table),
        },
        encoder=job.plan["encoder"],
        estimator=job.plan["estimator"],
        statistics={
            "mean": float(scores.mean()),
            "std": float(scores.std(ddof=0)),
            "min": float(scores.min()),
            "max": float(scores.max()),
            "rank_deficit_share": float((table["rank_deficit"] > 0).mean()),
            "confounders": confounder_correlations(table),
        },
        conversions=dict(sorted(Counter(table["conversion"].dropna()).items())),
        failures=failures,
        minoritybench=minoritybench.__version__,
    )


def confounder_correlations(table: pd.DataFrame) -> dict[str, float | None]:
    """Spearman of the deflated score with each confounder; None where the confounder does not vary."""
    ranks = table["score_deflated"].rank()
    return {
        name: float(ranks.corr(table[name].rank()))
        if table[name].min() < table[name].max() and len(table) > 2
        else None
        for name in CONFOUNDERS
    }


def _warnings(job: RankJob, table: pd.DataFrame, recipe: ReferenceSet) -> list[str]:
    warnings = [
        f"the score follows {name} (Spearman {rho:+.2f}): a low one may only mean {'low' if rho > 0 else 'high'} {name}"
        for name, rho in recipe.statistics["confounders"].items()
        if rho is not None and abs(rho) > 0.5
    ]
    if job.request.estimator != "exact":
        warnings.append("approximate: the score is a top-k sum by randomised SVD, another quantity than the JEPA-SCORE")
    share = recipe.statistics["rank_deficit_share"]
    if share > 0.01:
        warnings.append(
            f"{share:.1%} of the images have singular values at zero beyond the structural ones (dead units)"
        )
    if recipe.conversions:
        listed = ", ".join(f"{count} {kind}" for kind, count in recipe.conversions.items())
        warnings.append(f"converted to 8-bit RGB: {listed}")
    seen = recipe.encoder.get("input_size")
    if seen is not None and bool((table[["width", "height"]].min(axis=1) > 4 * seen).any()):
        warnings.append(
            f"{recipe.encoder['name']} sees {seen} px images; larger ones were shrunk to that (choose --encoder)"
        )
    return warnings


def _write(
    out: Path, table: pd.DataFrame, members: pd.DataFrame, recipe: ReferenceSet, failures: list[dict[str, str]]
) -> None:
    with atomic_path(out / SCORES_FILE) as part:
        columns = {name: table[name] for name in SCORE_SCHEMA.names}
        scores = pa.Table.from_pandas(pd.DataFrame(columns), SCORE_SCHEMA, preserve_index=False)
        pq.write_table(scores.replace_schema_metadata(None), part)
    write_text(out / MEMBERS_FILE, members.to_csv(index=False, lineterminator="\n"))
    frame = pd.DataFrame(failures, columns=["id", "error"])
    write_text(out / FAILURES_FILE, frame.to_csv(index=False, lineterminator="\n"))
    write_text(out / RECIPE_FILE, pretty_json(recipe.model_dump(mode="json")))


def _write_gallery(
    job: RankJob, table: pd.DataFrame, recipe: ReferenceSet, spectrum: dict[str, Any], warnings: list[str]
) -> None:
    from minoritybench.report.gallery import gallery_html

    write_text(job.out / GALLERY_FILE, gallery_html(job.source, table, recipe, spectrum, warnings))


def merge_moments(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and variance of sigma_i and log sigma_i over all images, from the shards' sums in shard order.

    Empty where the estimator has no spectrum. Lists by position i, sigma descending.
    """
    filled = [part for part in parts if part["count"]]
    if not filled:
        return {}
    count = sum(part["count"] for part in filled)
    total = {
        key: np.sum([part[key] for part in filled], axis=0) / count
        for key in ("sigma", "sigma_squared", "log", "log_squared")
    }
    return {
        "count": count,
        "sigma_mean": total["sigma"].tolist(),
        "sigma_variance": np.maximum(total["sigma_squared"] - total["sigma"] ** 2, 0).tolist(),
        "log_mean": total["log"].tolist(),
        "log_variance": np.maximum(total["log_squared"] - total["log"] ** 2, 0).tolist(),
    }


def _row_fraction(job: RankJob) -> float:
    """Jacobian products spent, as a share of the rows of every full Jacobian."""
    if job.request.estimator == "exact":
        return 1.0
    rsvd = Rsvd()
    dim = getattr(job.encoder, "dim", None)
    products = 2 * (1 + rsvd.q) * rsvd.probes
    return products / dim if dim else float("nan")


def _default_encoder(spec: SourceSpec) -> str:
    return _DATASET_ENCODER if spec.name in entries("datasets") else _FOLDER_ENCODER


def _benchmark_default(spec: SourceSpec, field: str, fallback: str) -> str:
    """What the benchmark of the same name declares, else the toolkit's default."""
    if spec.name in entries("benchmarks"):
        value: str = getattr(load_benchmark(spec.name), field)
        return value
    return fallback


def _encoder_facts(encoder: Encoder, name: str, request: RankRequest) -> dict[str, Any]:
    return {
        "name": name_of(encoder) if ".py:" not in name else name,
        "dim": getattr(encoder, "dim", None),
        "weights": request.weights,
        "weights_sha256": getattr(encoder, "weights_sha256", None),
        "input_size": getattr(encoder, "input_size", None),
        "preprocess": getattr(encoder, "preprocess", None),
        "jacobian_wrt": "network_input",
        "dtype": request.dtype,
        "micro_batch": micro_batch_of(encoder),
        "threads": threads_of(encoder),
    }


def _estimator_facts(estimator: str) -> dict[str, Any]:
    if estimator == "exact":
        return {"name": "exact", "mode": "deflated"}
    rsvd = Rsvd()
    return {"name": "rsvd", "k": rsvd.k, "p": rsvd.p, "q": rsvd.q, "seed": 0, "approximation": "sum of the top k only"}
