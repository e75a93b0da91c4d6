"""A ranking request made definite: source and encoder opened, plan drawn up, nothing computed or written."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from minoritybench.data.source import ImageSource, SourceSpec, open_source, spec_from_argument
from minoritybench.encoders.base import Encoder, encoder_facts, name_of
from minoritybench.engine import check_engine
from minoritybench.errors import BadInputError, both_or_absent
from minoritybench.features import ExtractorEncoder
from minoritybench.metrics.neighbours import AVGKNN_K, LOF_K
from minoritybench.rank_shard import open_encoder
from minoritybench.records import ReferenceSet, load_benchmark
from minoritybench.references import parse_keep
from minoritybench.registry import code_digests, entries, is_user_file
from minoritybench.scoring import ESTIMATORS, Rsvd
from minoritybench.store import PLAN_FILE, digest_of, read_json, sha256_file

_ROW_FORMAT = 3
"""Raised whenever the same plan would give other scores: shards of an older format are then done again."""

_CASCADE_VERSION = 3
"""Raised whenever a cascade would look at other images: what it left is then done again."""

NEIGHBOURS = {"avgknn": AVGKNN_K, "lof": LOF_K}
"""Ways to rank by neighbours in feature space (generator-centric rarity), with how many they look at."""
RANK_BY = ("jepa", *NEIGHBOURS)

_DEFAULT_KEEP = "10%"
_DATASET_ENCODER = "dinov2-vits14-reg"  # the published scorer's, for named datasets without a benchmark of their own
FOLDER_ENCODER = "digits-jepa"
_LONGEST_TITLE = 40


@dataclass(frozen=True)
class RankRequest:
    """What `rank-dataset` was asked for; None means the benchmark's or the toolkit's default."""

    dataset: str
    root: str | None = None
    split: str | None = None
    encoder: str | None = None
    weights: str | None = None
    estimator: str = "exact"
    rank_by: Literal["jepa", "avgknn", "lof"] = "jepa"
    keep: str | None = None
    per_class: int | None = None
    out: Path | None = None
    limit: int | None = None
    batch_size: int | None = None
    shard_size: int = 256
    device: str = "cpu"
    dtype: str = "float32"
    workers: int = 1
    engine: str = "local"
    force: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("dataset", str), ("root", str), ("weights", str), ("keep", str), ("out", Path)):
            value = getattr(self, name)
            if value is not None:  # Python callers pass paths as text, counts as numbers
                object.__setattr__(self, name, kind(value))
        if self.estimator not in ESTIMATORS:
            raise BadInputError(f"--estimator {self.estimator!r} is not one of: {', '.join(ESTIMATORS)}")
        if self.rank_by not in RANK_BY:
            raise BadInputError(f"--rank-by {self.rank_by!r} is not one of: {', '.join(RANK_BY)}")
        if self.rank_by != "jepa" and self.estimator != "exact":
            raise BadInputError(f"--estimator {self.estimator} belongs to --rank-by jepa")
        if self.per_class is not None and self.estimator == "cascade":
            raise BadInputError("--per-class needs the score of every image, so --estimator exact and not cascade")
        if self.shard_size < 1 or (self.batch_size is not None and self.batch_size < 1):
            raise BadInputError("--shard-size and --batch-size must be at least 1")


@dataclass(frozen=True)
class RankOutcome:
    """A finished ranking: where it lies, its recipe, the images that failed and what it cost."""

    out: Path
    reference_set: ReferenceSet
    failures: list[dict[str, str]]
    cost: dict[str, float | None]
    warnings: list[str]


@dataclass(frozen=True)
class RankJob:
    """A request made definite. Two jobs of equal plans give equal scores; `shard_size` and the encoder's thread count
    are taken over from work that was started elsewhere (see `resumed`)."""

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

    @property
    def exact(self) -> bool:
        """Whether scores are exact JEPA-SCOREs rather than a `proxy`, as far as the encoder's dtype goes."""
        return self.request.rank_by == "jepa" and self.request.estimator != "rsvd"


def crew(request: RankRequest) -> dict[str, Any]:
    """Who runs the shards, as keywords of `run_stage`."""
    return {"workers": request.workers, "engine": request.engine, "device": request.device}


def prepare_job(request: RankRequest) -> RankJob:
    """Check a request, open what it names and fix its plan; nothing is computed or written."""
    check_engine(request.engine, request.device)
    spec = spec_from_argument(request.dataset, request.root, request.split, request.limit)
    name = request.encoder or _benchmark_default(spec, "guide", _default_encoder(spec))
    source, encoder = both_or_absent(
        lambda: open_source(spec),
        lambda: open_encoder(
            name, request.rank_by, weights=request.weights, device=request.device, dtype=request.dtype
        ),
    )
    _check_neighbours(request, encoder, len(source.ids))
    keep = request.keep or _benchmark_default(spec, "keep", _DEFAULT_KEEP)
    _check_selection(request, keep, source)
    plan = {
        "kind": "rank-dataset",
        "format": _ROW_FORMAT,
        "dataset": {**source.spec.as_dict(), "fingerprint": source.fingerprint()},
        "encoder": _encoder_facts(encoder, name, request),
        "estimator": _estimator_facts(request),
        "device": request.device,
        "keep": keep,
        "per_class": request.per_class,
        "shard_size": request.shard_size,
    }
    out = request.out or Path("runs") / f"rank-{_title(spec)}-{_identity(plan)[:12]}"
    return RankJob(request, source, encoder, name, keep, plan, out)


def resumed(job: RankJob) -> RankJob:
    """The job as the work in its folder was started: with the shard size it was cut into and the thread count its
    scores belong to, so that no finished shard is lost on another machine or under another `--shard-size`."""
    marker = job.out / PLAN_FILE
    if job.request.force or not marker.is_file():
        return job
    started = read_json(marker)
    try:
        size, threads = started["shard_size"], started["encoder"]["threads"]
    except (KeyError, TypeError):
        return job
    if not all(type(value) is int and value >= 1 for value in (size, threads)):
        return job
    plan = {**job.plan, "shard_size": size, "encoder": {**job.plan["encoder"], "threads": threads}}
    return replace(job, plan=plan) if plan == started else job


def _title(spec: SourceSpec) -> str:
    """What a default output folder is called after: the dataset, and the name of its folder or zip where it has no
    other; letters of any language stay, all else that could trouble a shell becomes a hyphen."""
    parts = [spec.name]
    if spec.name in ("folder", "zip") and spec.root is not None:
        parts.append(Path(spec.root).name[:_LONGEST_TITLE])
    return re.sub(r"[^\w.]+", "-", "-".join(parts)).strip("-")


def _identity(plan: dict[str, Any]) -> str:
    """Digest of the work itself: without how it is cut and without this machine's thread count."""
    encoder = {key: value for key, value in plan["encoder"].items() if key != "threads"}
    return digest_of({**plan, "encoder": encoder, "shard_size": None})


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


def _check_neighbours(request: RankRequest, encoder: Encoder, images: int) -> None:
    if request.rank_by not in NEIGHBOURS:
        return
    if images <= NEIGHBOURS[request.rank_by]:
        raise BadInputError(
            f"--rank-by {request.rank_by} looks at {NEIGHBOURS[request.rank_by]} neighbours of each image, of {images}"
        )
    if isinstance(encoder, ExtractorEncoder) and request.weights is not None:
        raise BadInputError(f"--weights belongs to encoders; {encoder.name} is a feature extractor with its own")


def _default_encoder(spec: SourceSpec) -> str:
    return FOLDER_ENCODER if spec.name in ("folder", "zip") else _DATASET_ENCODER


def _benchmark_default(spec: SourceSpec, field: str, fallback: str) -> str:
    """What the benchmark of the same name declares, else the toolkit's default."""
    if spec.name in entries("benchmarks"):
        value: str = getattr(load_benchmark(spec.name), field)
        return value
    return fallback


def _encoder_facts(encoder: Encoder, name: str, request: RankRequest) -> dict[str, Any]:
    own = encoder_facts(encoder, name if is_user_file(name) else name_of(encoder))
    given = request.weights not in (None, "random")
    facts = {
        "name": own["name"],
        "dim": own["dim"],
        "weights": "file" if given else request.weights,  # the path itself is local knowledge
        "weights_sha256": own["weights_sha256"],
        "input_size": own["input_size"],
        "preprocess": own["preprocess"],
        "jacobian_wrt": own["jacobian_wrt"],
        "dtype": request.dtype,
        "micro_batch": own["micro_batch"],
        "threads": own["threads"] or torch.get_num_threads(),
    }
    if is_user_file(name):
        facts["code_sha256"] = code_digests(name)[name]
        if given and Path(str(request.weights)).is_file():
            facts["weights_sha256"] = own["weights_sha256"] or sha256_file(Path(str(request.weights)))
    return facts


def _estimator_facts(request: RankRequest) -> dict[str, Any]:
    facts = _definition(request)
    said = [facts.pop("approximation", None), reduced_rows(request)]
    approximation = "; ".join(part for part in said if part is not None)
    return {**facts, "approximation": approximation} if approximation else facts


def reduced_rows(request: RankRequest) -> str | None:
    """What scores of Jacobian rows in reduced precision are good for, in words; None where rows are in full."""
    reduced = request.rank_by == "jepa" and request.dtype == "bfloat16"
    return f"rows in {request.dtype}, for ranking only" if reduced else None


def _definition(request: RankRequest) -> dict[str, Any]:
    if request.rank_by in NEIGHBOURS:
        return {
            "name": request.rank_by,
            "k": NEIGHBOURS[request.rank_by],
            "distance": "euclidean",
            "among": "the ranked images, each without itself",
            "column": "proxy",
            "rare": "high",
        }
    if request.estimator == "exact":
        return {"name": "exact", "mode": "deflated"}
    if request.estimator == "cascade":
        return {"name": "cascade", "mode": "deflated", "seed": 0, "version": _CASCADE_VERSION}
    rsvd = Rsvd()
    return {"name": "rsvd", "k": rsvd.k, "p": rsvd.p, "q": rsvd.q, "seed": 0, "approximation": "sum of the top k only"}
