"""What a ranking will cost, from scoring one micro-batch of it: an estimate, said to be one."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np

from minoritybench.data.source import ImageDecodeError
from minoritybench.encoders.base import micro_batch_of
from minoritybench.metrics.neighbours import mean_neighbour_distance
from minoritybench.rank import worker_plan
from minoritybench.rank_job import NEIGHBOURS, RankJob
from minoritybench.rank_shard import Trial, score_first
from minoritybench.references import parse_keep
from minoritybench.report.gallery import SHOWN, tile_uri
from minoritybench.scoring.validity import MOST_IMAGES

_SHARD_OVERHEAD = 12_000
"""Bytes a shard costs beside its rows: the parquet footer, the receipt with the spectrum's sums."""
_MEMBER_BYTES = 130
"""Bytes of a line of members.csv beside the id: a digest and two scores in full precision."""
_TRIAL_POINTS = 512
_PAGE_BYTES = 20_000
"""Bytes of gallery.html beside its thumbnails."""


def estimate(job: RankJob) -> dict[str, Any]:
    """`calibration` (`images` and `seconds` of the micro-batch that was scored), `estimated_seconds` of the whole run
    and `estimated_bytes` of what it leaves; seconds are None where not one image of the first could be read.

    Workers are taken to run side by side at full speed, which they only do with a core (or a GPU) each.
    """
    trial = score_first(worker_plan(job))
    return {
        "calibration": {"images": trial.images, "seconds": trial.seconds},
        "estimated_seconds": None if trial.seconds is None else _seconds(job, trial.seconds) + _pairs(job, trial),
        "estimated_bytes": _bytes(job, trial),
    }


def _seconds(job: RankJob, micro_batch_seconds: float) -> float:
    size, shard = micro_batch_of(job.encoder), int(job.plan["shard_size"])
    full, rest = divmod(job.images, shard)
    micro_batches = full * -(-shard // size) + -(-rest // size)
    return micro_batches * micro_batch_seconds / min(job.request.workers, job.shards)


def _pairs(job: RankJob, trial: Trial) -> float:
    """Seconds of the neighbour search at the end, which grows with the square of the images: from a small one."""
    images = job.images if job.request.rank_by in NEIGHBOURS else min(job.images, MOST_IMAGES)
    width = max(1, round(trial.feature_bytes / 4))
    points = np.random.default_rng(0).normal(size=(_TRIAL_POINTS, width))
    started = perf_counter()
    mean_neighbour_distance(points)
    return (perf_counter() - started) * (images / _TRIAL_POINTS) ** 2


def _bytes(job: RankJob, trial: Trial) -> int:
    kept = job.images if job.request.per_class else parse_keep(job.keep, job.images)
    identity = sum(map(len, job.source.ids[: trial.images])) / max(trial.images, 1)
    scores = job.shards * _SHARD_OVERHEAD + job.images * (2 * trial.row_bytes + trial.feature_bytes)
    return round(scores + kept * (identity + _MEMBER_BYTES) + _PAGE_BYTES + min(2 * SHOWN, job.images) * _tile(job))


def _tile(job: RankJob) -> int:
    """Bytes of the first image's thumbnail in gallery.html."""
    try:
        return len(tile_uri(job.source.load(0).pixels))
    except ImageDecodeError:
        return 0
