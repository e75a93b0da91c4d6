"""One shard of a ranking: read its images, score them, write a parquet file and then the receipt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor

from minoritybench.data.confounders import CONFOUNDERS, confounders
from minoritybench.data.source import ImageDecodeError, ImageSource, LoadedImage, SourceSpec, open_source
from minoritybench.encoders import load_encoder
from minoritybench.encoders.base import Encoder, embed, micro_batch_of, name_of, threads_of
from minoritybench.errors import BadInputError
from minoritybench.features import ExtractorEncoder, load_extractor
from minoritybench.microbatch import map_micro_batches, torch_threads, without_tf32
from minoritybench.registry import entries, user_code
from minoritybench.scoring import Backoff, Rsvd, exact_scores, rsvd_scores
from minoritybench.scoring.spectrum import LOG_FLOOR
from minoritybench.store import Receipts, atomic_path

STAGE = "score"
FEATURES = "features"
_QUICK_SECONDS = 5.0
FACTS = frozenset({"images", "rows", "failures", "spectrum", "seconds"})

SHARD_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("sha256", pa.string()),
        ("score", pa.float64()),
        ("score_deflated", pa.float64()),
        ("rank_deficit", pa.int64()),
        ("proxy", pa.float64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("conversion", pa.string()),
        *((name, pa.float64()) for name in CONFOUNDERS),
    ]
)


@dataclass(frozen=True)
class RankPlan:
    """What a worker needs to score any shard of a ranking. `batch_images` only groups work; it changes no result.

    `token` stands for the content of source and weights, so that a process never reuses one that has changed;
    `threads` is the torch thread count that the scores belong to. Ranked by anything but `jepa`, shards hold features
    and no scores, for rarity among neighbours takes them all. `stage` names the receipts, `indices` the images scored
    (None: all); `gram` has a shard leave the mean of `J J^T` over its images as well.
    """

    out: str
    token: str
    source: SourceSpec
    encoder: str
    weights: str | None
    device: str
    dtype: str
    threads: int
    rank_by: str
    rsvd: Rsvd | None
    shard_size: int
    batch_images: int
    stage: str = STAGE
    indices: tuple[int, ...] | None = None
    gram: bool = False

    def images_of(self, shard: int, total: int) -> Sequence[int]:
        """The images of a shard, of `total` in the source."""
        listed: Sequence[int] = range(total) if self.indices is None else self.indices
        return listed[shard * self.shard_size : (shard + 1) * self.shard_size]


class ShardResult:
    """What scoring images has given so far, in image order; `features` has a row f(x) for each of `rows`."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.features: list[NDArray[np.float32]] = []
        self.failures: list[dict[str, str]] = []
        self.moments = SpectrumMoments()
        self.grams: list[Tensor] = []

    def fail(self, name: str, reason: str) -> None:
        """An image that could not be scored."""
        self.failures.append({"id": name, "error": reason})


def score_shard(plan: RankPlan, shard: int) -> None:
    """Score the images of a shard and leave a parquet file, their features and a receipt."""
    started = perf_counter()
    source, encoder = open_both(plan)
    indices = plan.images_of(shard, len(source.ids))
    result = ShardResult()
    with torch_threads(plan.threads):
        for start in range(0, len(indices), plan.batch_images):
            _score_batch(plan, source, encoder, indices[start : start + plan.batch_images], result)
    table = shard_file(Path(plan.out), shard, plan.stage)
    features, gram = features_file(table), table.with_suffix(".npy")
    with atomic_path(table) as part:
        pq.write_table(pa.Table.from_pylist(result.rows, schema=SHARD_SCHEMA), part)
    with atomic_path(features) as part:
        save_file({FEATURES: np.stack(result.features) if result.features else np.empty((0, 0), np.float32)}, part)
    facts = {
        "images": len(indices),
        "rows": len(result.rows),
        "failures": result.failures,
        "spectrum": result.moments.as_dict(),
        "seconds": perf_counter() - started,
    }
    files = [table, features]
    if plan.gram:
        with atomic_path(gram) as part, part.open("wb") as handle:
            np.save(handle, _mean_gram(result.grams))
        files.append(gram)
    Receipts(Path(plan.out), plan.stage, plan.token).write(shard, files, facts)


def _mean_gram(grams: list[Tensor]) -> NDArray[np.float64]:
    """Their mean in image order, without those that are not finite; `(0, 0)` of none."""
    finite = [gram for gram in grams if bool(gram.isfinite().all())]
    return np.asarray((sum(finite[1:], finite[0]) / len(finite)).numpy()) if finite else np.zeros((0, 0))


@dataclass(frozen=True)
class Trial:
    """One micro-batch scored to see what it takes: images in it, seconds for it (None where no image could be read),
    bytes of a row of scores and of a row of features."""

    images: int
    seconds: float | None
    row_bytes: float
    feature_bytes: float


def score_first(plan: RankPlan) -> Trial:
    """Score the first micro-batch of the source and write nothing.

    A quick one is scored twice and the second time counts, for the first pass of a process also sets torch up.
    """
    source, encoder = open_both(plan)
    indices = range(min(micro_batch_of(encoder), len(source.ids)))
    seconds, result = 0.0, ShardResult()
    for _ in range(2):
        started, result = perf_counter(), ShardResult()
        with torch_threads(plan.threads):
            _score_batch(plan, source, encoder, indices, result)
        seconds = perf_counter() - started
        if seconds > _QUICK_SECONDS:
            break
    if not result.rows:
        return Trial(0, None, 0.0, 0.0)
    table, count = pa.Table.from_pylist(result.rows, schema=SHARD_SCHEMA), len(result.rows)
    return Trial(count, seconds, table.nbytes / count, sum(row.nbytes for row in result.features) / count)


def shard_file(out: Path, shard: int, stage: str = STAGE) -> Path:
    """Where the rows of a shard lie."""
    return out / "shards" / (f"{shard:06d}.parquet" if stage == STAGE else f"{stage}-{shard:06d}.parquet")


def features_file(shard: Path) -> Path:
    """Where f(x) of the rows of a shard's parquet file lies: one array `FEATURES`, `(rows, d)`."""
    return shard.with_suffix(".safetensors")


def read_batch(
    plan: RankPlan, source: ImageSource, encoder: Encoder, indices: Sequence[int], result: ShardResult
) -> tuple[list[tuple[int, dict[str, Any]]], Tensor]:
    """Decode and prepare images: index and facts of each that can be read, and their network inputs `(N, ...)`.

    The others count as failed. Only network inputs are held: decoded photographs are far larger.
    """
    read: list[tuple[int, dict[str, Any]]] = []
    inputs: list[Tensor] = []
    for index in indices:
        try:
            image = source.load(index)
        except ImageDecodeError as error:
            result.fail(source.ids[index], str(error))
            continue
        with user_code(plan.encoder):
            inputs.append(prepare_images(encoder, [image]))
        read.append((index, _facts(source.ids[index], image)))
    with user_code(plan.encoder):
        return read, stack_inputs(encoder, inputs)


def _score_batch(
    plan: RankPlan, source: ImageSource, encoder: Encoder, indices: Sequence[int], result: ShardResult
) -> None:
    read, prepared = read_batch(plan, source, encoder, indices, result)
    if not read:
        return
    with user_code(plan.encoder):
        features = embeddings(encoder, prepared)
        scored = _scored(plan, encoder, prepared, [index for index, _ in read], result)
    for (_, facts), values, row in zip(read, scored, features, strict=True):
        if any(value is not None and not math.isfinite(value) for value in values.values()):
            result.fail(facts["id"], "the encoder's Jacobian is not finite here")
        elif not np.isfinite(row).all():
            result.fail(facts["id"], "the encoder's output is not finite here")
        else:
            result.rows.append({**facts, **values})
            result.features.append(row)


@without_tf32()
def embeddings(encoder: Encoder, prepared: Tensor) -> NDArray[np.float32]:
    """f(x) `(N, d)` at prepared inputs `(N, ...)`, in the encoder's fixed micro-batches."""
    with torch_threads(threads_of(encoder)), torch.no_grad():
        z = map_micro_batches(partial(embed, encoder), prepared, micro_batch_of(encoder))
    return z.to("cpu", torch.float32).numpy()


def _facts(name: str, image: LoadedImage) -> dict[str, Any]:
    height, width = image.pixels.shape[:2]
    return {
        "id": name,
        "sha256": image.sha256,
        "width": width,
        "height": height,
        "conversion": image.conversion,
        **confounders(image),
    }


def _scored(
    plan: RankPlan, encoder: Encoder, prepared: Tensor, indices: list[int], result: ShardResult
) -> list[dict[str, Any]]:
    """The score columns of each image. An approximation is a `proxy`, never a score."""
    if plan.rank_by != "jepa":
        return [dict.fromkeys(("score", "score_deflated", "rank_deficit", "proxy")) for _ in indices]
    if plan.rsvd is not None:
        values = rsvd_scores(encoder, prepared, plan.rsvd, seed=0, indices=indices).tolist()
        return [{"score": None, "score_deflated": None, "rank_deficit": None, "proxy": value} for value in values]
    keep = (lambda grams: result.grams.extend(grams.cpu())) if plan.gram else None
    scores = exact_scores(encoder, prepared, backoff=_backoff(_bare(plan)), observe=keep)
    result.moments.add(scores.sigma)
    columns = zip(scores.reference.tolist(), scores.deflated.tolist(), scores.rank_deficit.tolist(), strict=True)
    return [{"score": r, "score_deflated": d, "rank_deficit": k, "proxy": None} for r, d, k in columns]


def prepare_images(encoder: Encoder, images: list[LoadedImage]) -> Tensor:
    """Network inputs `(N, ...)` of decoded images of any size, each prepared alone so that none affects another."""
    with torch_threads(threads_of(encoder)), torch.no_grad():
        return torch.cat([encoder.prepare(as_unit_tensor(image)) for image in images])


def stack_inputs(encoder: Encoder, inputs: list[Tensor]) -> Tensor:
    """Network inputs `(1, ...)` of images prepared apart, as one `(N, ...)`; empty for none."""
    shapes = sorted({tuple(each.shape[1:]) for each in inputs})
    if len(shapes) > 1:
        raise BadInputError(
            f"{name_of(encoder)}.prepare returns {shapes[0]} for one image and {shapes[1]} for another; let it resize"
            " every image to one shape"
        )
    return torch.cat(inputs) if inputs else torch.empty(0)


def as_unit_tensor(image: LoadedImage) -> Tensor:
    """uint8 `(H, W, 3)` to float32 `(1, 3, H, W)` in `[0, 1]`."""
    return torch.tensor(image.pixels).permute(2, 0, 1).unsqueeze(0).float() / 255.0


class SpectrumMoments:
    """Running sums of sigma_i and log sigma_i over images, by position i; summed in image order, so that they do not
    depend on how images were batched."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, list[float]] = {}

    def add(self, sigma: Tensor) -> None:
        """Add the spectra `(B, r)` of a batch, image by image."""
        for row in sigma.tolist():
            if math.isfinite(row[0]):
                self._add_row(row)

    def _add_row(self, row: list[float]) -> None:
        logs = [math.log(max(value, LOG_FLOOR)) for value in row]
        for key, values in {
            "sigma": row,
            "sigma_squared": [v * v for v in row],
            "log": logs,
            "log_squared": [v * v for v in logs],
        }.items():
            sums = self.sums.setdefault(key, [0.0] * len(row))
            for position, value in enumerate(values):
                sums[position] += value
        self.count += 1

    def as_dict(self) -> dict[str, Any]:
        """For a receipt."""
        return {"count": self.count, **self.sums}


def open_both(plan: RankPlan) -> tuple[ImageSource, Encoder]:
    """Source and encoder of a plan, opened once a process whatever its stage."""
    return _opened(plan.source, plan.token), _loaded(_bare(plan))


def _bare(plan: RankPlan) -> RankPlan:
    return replace(plan, stage=STAGE, indices=None, gram=False, shard_size=1)


@lru_cache(maxsize=1)
def _opened(spec: SourceSpec, token: str) -> ImageSource:
    return open_source(spec)


@lru_cache(maxsize=1)
def _loaded(plan: RankPlan) -> Encoder:
    return open_encoder(plan.encoder, plan.rank_by, weights=plan.weights, device=plan.device, dtype=plan.dtype)


def open_encoder(name: str, rank_by: str, **options: Any) -> Encoder:
    """The encoder of a ranking; one by neighbours takes a registered feature extractor as well. A name that is both
    stays the encoder."""
    if rank_by != "jepa" and name in entries("features") and name not in entries("encoders"):
        return ExtractorEncoder(load_extractor(name, options.get("device", "cpu")))
    return load_encoder(name, **options)


@lru_cache(maxsize=1)
def _backoff(plan: RankPlan) -> Backoff:
    """What fits in memory, found out once a process."""
    return Backoff(_loaded(plan), plan.device)


def images_a_batch(encoder: Encoder, requested: int | None) -> int:
    """Images read at a time: eight micro-batches, or the request rounded up to whole ones, for a micro-batch is
    computed in full however few images it holds."""
    size = micro_batch_of(encoder)
    return 8 * size if requested is None else -(-requested // size) * size
