"""A stage of resumable work: run the shards that have no valid receipt, then hand over every shard's facts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from minoritybench.engine import run_shards
from minoritybench.errors import MinorityBenchError
from minoritybench.progress import say_resumed, track
from minoritybench.store import Receipts

Plan = TypeVar("Plan")


class UnfinishedError(MinorityBenchError):
    """Shards ended without a receipt; what is done is kept."""

    exit_code = 5


def run_stage(
    worker: Callable[[Plan, int], None],
    plan: Plan,
    shards: int,
    receipts: Receipts,
    *,
    label: str,
    workers: int = 1,
    engine: str = "local",
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Do what is left of shards `0 .. shards - 1` and return the facts of all, in order. The caller holds the lock."""
    pending = [shard for shard in range(shards) if receipts.read(shard) is None]
    done = shards - len(pending)
    say_resumed(done, shards)
    running = run_shards(worker, plan, pending, workers, engine, device)
    for _ in track(running, total=shards, done=done, label=label):
        pass
    facts = [fact for shard in range(shards) if (fact := receipts.read(shard)) is not None]
    if len(facts) != shards:
        raise UnfinishedError(
            f"{shards - len(facts)} shards in {receipts.root} did not finish; the same command resumes"
        )
    return facts
