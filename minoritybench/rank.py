"""Rank a dataset by JEPA-SCORE and keep the lowest as a reference set."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import minoritybench
from minoritybench.engine.stage import run_stage
from minoritybench.errors import MinorityBenchError
from minoritybench.rank_cascade import run_cascade
from minoritybench.rank_facts import confounder_correlations, ranking_warnings
from minoritybench.rank_features import RARITY, density_agreement, load_features
from minoritybench.rank_job import RankJob, RankOutcome, RankRequest, crew, prepare_job, resumed
from minoritybench.rank_shard import FACTS, STAGE, RankPlan, images_a_batch, score_shard, shard_file
from minoritybench.records import KeepRule, ReferenceSet
from minoritybench.references import MEMBERS_FILE, RECIPE_FILE, SCORES_FILE, csv_text, index_digest, select_members
from minoritybench.report.gallery import gallery_html
from minoritybench.request_options import build_request
from minoritybench.scoring import Rsvd
from minoritybench.scoring.spectrum import LOG_FLOOR
from minoritybench.store import (
    Receipts,
    atomic_path,
    digest_of,
    folder_lock,
    open_output,
    pretty_json,
    refuse_overlap,
    write_text,
)

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


class NothingScoredError(MinorityBenchError):
    """Every image failed: failures.csv says why, and there is nothing to rank."""

    exit_code = 5


def rank_dataset(dataset: str | Path, **options: Any) -> RankOutcome:
    """Rank a dataset and write scores.parquet, reference_set.json, members.csv, failures.csv and gallery.html.

    Options are the fields of `RankRequest`, which are those of the command line. Work is resumed from where a killed
    run left it and the same request is never computed twice.
    """
    return run_job(prepare_job(build_request(RankRequest, {"dataset": str(dataset)}, options)))


def run_job(job: RankJob) -> RankOutcome:
    """Score what is not scored yet, then write the artefacts from the shards."""
    if job.source.spec.root is not None:
        refuse_overlap(job.out, Path(job.source.spec.root), inside=True)  # no artefact is an image
    with folder_lock(job.out):
        job = resumed(job)
        open_output(job.out, job.plan, force=job.request.force)
        if job.request.estimator == "cascade":
            return _finish(job, _cascaded(job))
        receipts = Receipts(job.out, STAGE, digest_of(job.plan), FACTS)
        facts = run_stage(score_shard, worker_plan(job), job.shards, receipts, label="scoring", **crew(job.request))
        return _finish(job, _scored(job, facts))


@dataclass(frozen=True)
class _Scored:
    """What the stages left: `table` one row an image, `report`, what the estimator has to say in the recipe, and
    `shards`, the files whose features stand beside them."""

    table: pd.DataFrame
    failures: list[dict[str, str]]
    spectra: list[dict[str, Any]]
    cost: dict[str, float | None]
    report: dict[str, Any]
    shards: list[Path]


def _scored(job: RankJob, facts: list[dict[str, Any]]) -> _Scored:
    shards = [shard_file(job.out, shard) for shard in range(job.shards)]
    table = pa.concat_tables([pq.read_table(shard) for shard in shards]).to_pandas()
    cost = {
        "seconds": sum(float(fact["seconds"]) for fact in facts),
        "exact_fraction": 1.0 if job.exact else 0.0,
        "row_fraction": _row_fraction(job),
    }
    failures = [failure for fact in facts for failure in fact["failures"]]
    return _Scored(table, failures, [fact["spectrum"] for fact in facts], cost, {}, shards)


def _cascaded(job: RankJob) -> _Scored:
    done = run_cascade(job, worker_plan(job))
    cost: dict[str, float | None] = {
        "seconds": done.seconds,
        "exact_fraction": done.exact_fraction,
        "row_fraction": done.row_fraction,
    }
    return _Scored(done.table, done.failures, done.spectra, cost, done.report, done.shards)


def worker_plan(job: RankJob) -> RankPlan:
    """What workers are told of a job."""
    return RankPlan(
        out=str(job.out),
        token=digest_of(job.plan),
        source=job.source.spec,
        encoder=job.encoder_name,
        weights=job.request.weights,
        device=job.request.device,
        dtype=job.request.dtype,
        threads=int(job.plan["encoder"]["threads"]),
        rank_by=job.request.rank_by,
        rsvd=Rsvd() if job.request.estimator == "rsvd" else None,
        shard_size=int(job.plan["shard_size"]),
        batch_images=images_a_batch(job.encoder, job.request.batch_size),
    )


def _finish(job: RankJob, scored: _Scored) -> RankOutcome:
    failures = sorted(scored.failures, key=lambda failure: failure["id"])
    write_text(job.out / FAILURES_FILE, csv_text(pd.DataFrame(failures, columns=["id", "error"])))
    table = scored.table
    if table.empty:
        raise NothingScoredError(
            f"none of the {job.images} images could be scored, see {job.out / FAILURES_FILE};"
            f" the first: {failures[0]['id']}: {failures[0]['error']}"
        )
    table = _ranked(_with_value(job, table, scored.shards))
    members, keep = select_members(table, job.keep, job.request.per_class)
    table = _proven(table, members)
    recipe = _recipe(job, table, members, keep, scored)
    warnings = ranking_warnings(job, table, recipe)
    _write(job.out, table, members, recipe)
    spectrum = merge_moments(scored.spectra)
    write_text(job.out / GALLERY_FILE, gallery_html(job.source, table, members["id"], recipe, spectrum, warnings))
    return RankOutcome(job.out, recipe, failures, scored.cost, warnings)


def _with_value(job: RankJob, table: pd.DataFrame, shards: list[Path]) -> pd.DataFrame:
    """Rows by id with `value`, what is ranked by, low is rare: the deflated score, a proxy of it, or the negative of
    how far off its neighbours an image lies, which itself is the proxy."""
    table = table.sort_values("id", kind="stable", ignore_index=True)
    if job.request.rank_by in RARITY:
        table["proxy"] = RARITY[job.request.rank_by](load_features(shards, table["id"]))
        return table.assign(value=-table["proxy"])
    return table.assign(value=table["score_deflated" if job.exact else "proxy"])


def _ranked(table: pd.DataFrame) -> pd.DataFrame:
    """`rank` 1 for the lowest `value`, ties by id, null where it is."""
    order = table.dropna(subset=["value"]).sort_values(["value", "id"], kind="stable").index
    table["rank"] = pd.array([pd.NA] * len(table), dtype="Int64")
    table.loc[order, "rank"] = np.arange(1, len(order) + 1)
    return table


def _proven(table: pd.DataFrame, members: pd.DataFrame) -> pd.DataFrame:
    """Where images without a `value` are left, `rank` only up to the highest of the members: one of those without may
    lie anywhere above it, which is as far as a cascade has looked."""
    if table["value"].notna().all():
        return table
    threshold = table.loc[members.index, "value"].max()
    return table.assign(rank=table["rank"].mask(table["value"] > threshold))


def _recipe(job: RankJob, table: pd.DataFrame, members: pd.DataFrame, keep: KeepRule, scored: _Scored) -> ReferenceSet:
    spec = job.source.spec
    values = table["proxy" if job.request.rank_by in RARITY else "value"].dropna()
    return ReferenceSet(
        name=spec.name if spec.name != "folder" else f"folder-{index_digest(members)[:8]}",
        sha256=index_digest(members),
        n=len(members),
        rank_by=job.request.rank_by,
        keep=keep,
        threshold=float(members["score_deflated"].max()) if job.exact else None,
        dataset={
            "name": spec.name,
            "split": spec.split,
            "limit": spec.limit,
            "n": len(table),
            "sha256": index_digest(table),
        },
        encoder=job.plan["encoder"],
        estimator={**job.plan["estimator"], **scored.report},
        statistics={
            "mean": float(values.mean()),
            "std": float(values.std(ddof=0)),
            "min": float(values.min()),
            "max": float(values.max()),
            **_dead_units(job, table, members),
            "confounders": confounder_correlations(table),
            **(density_agreement(scored.shards, table) if _may_be_density(job, table) else {}),
        },
        conversions=dict(sorted(Counter(table["conversion"].dropna()).items())),
        failures=len(scored.failures),
        minoritybench=minoritybench.__version__,
    )


def _dead_units(job: RankJob, table: pd.DataFrame, members: pd.DataFrame) -> dict[str, Any]:
    """How many images have singular values at zero beyond the structural ones and, where any have, what these decide.

    `rank_deficit_members` of the set have some; `members_either_way` would be kept, too, if every zero were left out of
    its sum instead of counting log 1e-6.
    """
    if not job.exact:
        return {"rank_deficit_share": None}
    deficit = table["rank_deficit"].fillna(0)
    share = float((table["rank_deficit"].dropna() > 0).mean())
    if share == 0:
        return {"rank_deficit_share": share}
    without = _ranked(table.assign(value=table["value"] - deficit * math.log(LOG_FLOOR)))
    kept = set(select_members(without, job.keep, job.request.per_class)[0]["id"])
    return {
        "rank_deficit_share": share,
        "rank_deficit_members": int((deficit[table["id"].isin(set(members["id"]))] > 0).sum()),
        "members_either_way": len(kept & set(members["id"])),
    }


def _may_be_density(job: RankJob, table: pd.DataFrame) -> bool:
    """Whether every image has a score that density can be compared with: the low end alone, which is what a cascade
    scores, would say something else."""
    return job.request.rank_by not in RARITY and bool(table["value"].notna().all())


def _write(out: Path, table: pd.DataFrame, members: pd.DataFrame, recipe: ReferenceSet) -> None:
    with atomic_path(out / SCORES_FILE) as part:
        columns = {name: table[name] for name in SCORE_SCHEMA.names}
        scores = pa.Table.from_pandas(pd.DataFrame(columns), SCORE_SCHEMA, preserve_index=False)
        pq.write_table(scores.replace_schema_metadata(None), part)
    write_text(out / MEMBERS_FILE, csv_text(members))
    write_text(out / RECIPE_FILE, pretty_json(recipe.model_dump(mode="json")))


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


def _row_fraction(job: RankJob) -> float | None:
    """Jacobian products spent, as a share of the rows of every full Jacobian; None where the encoder states no dim."""
    if job.exact:
        return 1.0
    if job.request.rank_by in RARITY:
        return 0.0
    rsvd = Rsvd()
    dim = job.plan["encoder"]["dim"]
    return 2 * (1 + rsvd.q) * rsvd.probes / dim if dim else None
