"""Shards on this machine: in this process, or spread over worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from minoritybench.errors import MinorityBenchError

Plan = TypeVar("Plan")


class WorkerDiedError(MinorityBenchError):
    """A worker process was killed (often for memory); finished shards are kept."""

    exit_code = 5


def run_shards(
    worker: Callable[[Plan, int], None], plan: Plan, shards: Sequence[int], workers: int = 1, device: str = "cpu"
) -> Iterator[int]:
    """Run `worker(plan, shard)` for each shard, yielding each shard number as it is done, in any order.

    With more than one worker, `worker` must be importable and `plan` picklable; processes are spawned, one shard at a
    time each; on `device` `cuda` they take the GPUs in turn. An exception in a shard stops the run; shards already done
    stay done.
    """
    if workers == 1 or len(shards) <= 1:
        for shard in shards:
            worker(plan, shard)
            yield shard
        return
    context = multiprocessing.get_context("spawn")
    setting = (os.getpid(), device, context.Value("i", 0))
    with ProcessPoolExecutor(min(workers, len(shards)), context, _set_up, setting) as pool:
        futures = {pool.submit(worker, plan, shard): shard for shard in shards}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BrokenProcessPool as error:
            raise WorkerDiedError(
                "a worker process was killed, perhaps for memory; the same command resumes"
            ) from error
        except BaseException:  # an interrupt too: shards in flight are not waited for, they will be done again
            for process in list((pool._processes or {}).values()):  # the pool's own, never other children of the caller
                process.terminate()
            raise


def _set_up(parent: int, device: str, started: Any) -> None:
    """What a worker process does first; `started` counts, in shared memory, those that began before."""
    _die_with_parent(parent)
    with started.get_lock():
        number = started.value
        started.value += 1
    take_gpu(device, number)


def take_gpu(device: str, number: int) -> None:
    """Make `cuda` mean GPU `number` modulo their count in this process; any other device is one already."""
    if device != "cuda":
        return
    import torch

    if count := torch.cuda.device_count():
        torch.cuda.set_device(number % count)


def _die_with_parent(parent: int) -> None:
    """Leave when the parent is gone, so that a killed run leaves no worker behind; interrupts are the parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
