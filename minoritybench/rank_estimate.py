"""What a ranking will cost, from scoring one micro-batch of it: an estimate, said to be one."""

from __future__ import annotations

from typing import Any

from minoritybench.data.source import ImageDecodeError
from minoritybench.encoders.base import micro_batch_of
from minoritybench.rank import worker_plan
from minoritybench.rank_job import RankJob
from minoritybench.rank_shard import Trial, score_first
from minoritybench.references import parse_keep
from minoritybench.report.gallery import SHOWN, tile_uri

_SHARD_OVERHEAD = 12_000
"""Bytes a shard costs beside its rows: the parquet footer, the receipt with the spectrum's sums."""
_MEMBER_BYTES = 130
"""Bytes of a line of members.csv beside the id: a digest and two scores in full precision."""
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
        "estimated_seconds": None if trial.seconds is None else _seconds(job, trial.seconds),
        "estimated_bytes": _bytes(job, trial),
    }


def _seconds(job: RankJob, micro_batch_seconds: float) -> float:
    size, shard = micro_batch_of(job.encoder), int(job.plan["shard_size"])
    full, rest = divmod(job.images, shard)
    micro_batches = full * -(-shard // size) + -(-rest // size)
    return micro_batches * micro_batch_seconds / min(job.request.workers, job.shards)


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
