"""One shard of a cascade's cheap stages: a forward pass and a few Jacobian rows an image, kept as features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from minoritybench.encoders.base import Encoder, micro_batch_of
from minoritybench.microbatch import pad_rows, torch_threads
from minoritybench.rank_shard import SHARD_SCHEMA, RankPlan, ShardResult, open_both, read_batch, shard_file
from minoritybench.registry import user_code
from minoritybench.scoring.cascade import pooled, sketch_features
from minoritybench.scoring.jacobian import JacobianGraph
from minoritybench.store import Receipts, atomic_path

BLOCKS = ("embedding", "input", "sketch")
"""Feature blocks of an image: f(x), the network input on a coarse grid, and the sketch of its Jacobian."""
SKETCH_FACTS = frozenset({"images", "rows", "failures", "seconds"})
_SCORES = ("score", "score_deflated", "rank_deficit", "proxy")
_SCHEMA = pa.schema(
    [
        *(field for field in SHARD_SCHEMA if field.name not in _SCORES),
        *((block, pa.list_(pa.float32())) for block in BLOCKS),
    ]
)


@dataclass(frozen=True)
class SketchPlan:
    """A ranking's plan and the cotangents `(r, d)` that every image's sketch takes."""

    rank: RankPlan
    probes: Tensor


def sketch_shard(plan: SketchPlan, shard: int) -> None:
    """Take the features of the images of a shard and leave a parquet file and a receipt."""
    started = perf_counter()
    source, encoder = open_both(plan.rank)
    indices = plan.rank.images_of(shard, len(source.ids))
    step = plan.rank.batch_images
    rows: list[dict[str, Any]] = []
    result = ShardResult()
    with torch_threads(plan.rank.threads):
        for start in range(0, len(indices), step):
            read, prepared = read_batch(plan.rank, source, encoder, indices[start : start + step], result)
            if not read:
                continue
            with user_code(plan.rank.encoder):
                blocks = _features(encoder, prepared, plan.probes)
            rows += [{**facts, **values} for (_, facts), values in zip(read, blocks, strict=True)]
    file = shard_file(Path(plan.rank.out), shard, plan.rank.stage)
    with atomic_path(file) as part:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), part)
    facts = {
        "images": len(indices),
        "rows": len(rows),
        "failures": result.failures,
        "seconds": perf_counter() - started,
    }
    Receipts(Path(plan.rank.out), plan.rank.stage, plan.rank.token).write(shard, [file], facts)


def _features(encoder: Encoder, prepared: Tensor, probes: Tensor) -> list[dict[str, list[float]]]:
    """The feature blocks of each image, taken in the encoder's fixed micro-batches."""
    size = micro_batch_of(encoder)
    parts: dict[str, list[Tensor]] = {block: [] for block in BLOCKS}
    for start in range(0, prepared.shape[0], size):
        block = prepared[start : start + size]
        graph = JacobianGraph(encoder, pad_rows(block, size))
        taken = (graph.z, pooled(graph.prepared), sketch_features(graph, probes))
        for name, values in zip(BLOCKS, taken, strict=True):
            parts[name].append(values[: block.shape[0]].cpu())
    columns = {name: torch.cat(values).tolist() for name, values in parts.items()}
    return [{name: columns[name][row] for name in BLOCKS} for row in range(prepared.shape[0])]
