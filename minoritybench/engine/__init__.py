"""Engines run shards. They only schedule shard numbers; what a shard is, they never see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from minoritybench.engine import local
from minoritybench.errors import BadInputError

__all__ = ["ENGINES", "check_engine", "run_shards"]

ENGINES = ("local", "ray")

Plan = TypeVar("Plan")


def run_shards(
    worker: Callable[[Plan, int], None],
    plan: Plan,
    shards: Sequence[int],
    workers: int = 1,
    engine: str = "local",
    device: str = "cpu",
) -> Iterator[int]:
    """Run `worker(plan, shard)` for each shard on `workers` workers, yielding each shard number as it is done, in any
    order.

    `device` is where the worker computes: with `cuda`, GPUs are shared out among the workers. An error in a shard
    stops the run and is raised here; shards already done stay done. Errors: unknown engine or fewer than one worker
    exit 2, an absent optional package exits 3, workers that keep dying exit 5.
    """
    check_engine(engine, device)
    if workers < 1:
        raise BadInputError(f"--workers must be at least 1, not {workers}")
    if engine == "ray":
        from minoritybench.engine import ray

        return ray.run_shards(worker, plan, shards, workers, device)
    return local.run_shards(worker, plan, shards, workers, device)


def check_engine(engine: str, device: str = "cpu") -> None:
    """Refuse an engine that is unknown, not installed or cannot use `device`, before any work."""
    if engine not in ENGINES:
        raise BadInputError(f"--engine {engine!r} is not one of: {', '.join(ENGINES)}")
    if engine == "ray":
        from minoritybench.engine import ray

        ray.check(device)
