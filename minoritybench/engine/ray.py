"""Shards on Ray: actors of a cluster, or of a Ray that is started on this machine for one run.

`RAY_ADDRESS` names the cluster; without it a local Ray starts and ends with the run. Every node needs this version of
minoritybench and the working folder at the same path, on storage they share. A local Ray listens on the machine's
network interfaces while it runs, as Ray does.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import minoritybench
from minoritybench.engine.local import WorkerDiedError
from minoritybench.errors import BadInputError, MinorityBenchError, MissingDependencyError

Plan = TypeVar("Plan")
log = logging.getLogger(__name__)

_RETRIES = 3
"""How often a shard is tried again on a new worker when the one that ran it died. Workers are always replaced."""

_PLACEMENT_SECONDS = 300
"""How long to wait for the cluster to place a first worker before saying what is missing."""

_NOTICE_SECONDS = 20
_KNOCK_SECONDS = 10
_THREADS = "OMP_NUM_THREADS"
_OBJECT_STORE_BYTES = 100 * 1024**2
"""Only plans travel through Ray's object store: images and results lie in files."""


class _Worker:
    """The actor: one process that runs one shard at a time."""

    def __init__(self, search: list[str], threads: str | None) -> None:
        sys.path.extend(path for path in search if path not in sys.path)  # a worker imports what the caller can
        # Ray sets one thread a CPU it grants, which would change the last bits; torch is not loaded yet.
        if threads is None:
            os.environ.pop(_THREADS, None)
        else:
            os.environ[_THREADS] = threads

    def version(self) -> str:
        return minoritybench.__version__

    def run(self, worker: Callable[[Any, int], None], plan: Any, shard: int, folder: str) -> None:
        if not Path(folder).is_dir():
            raise BadInputError(f"{folder} is not there on a Ray node: run from a folder that all nodes share")
        os.chdir(folder)  # relative paths in a plan mean the caller's
        worker(plan, shard)


def check(device: str) -> None:
    """Refuse where Ray is not installed (exit 3) or the device names one GPU, which is Ray's to choose (exit 2)."""
    _ray()
    if device.startswith("cuda:"):
        raise BadInputError(f"--device {device}: Ray gives every worker a GPU of its own, so say --device cuda")


def run_shards(
    worker: Callable[[Plan, int], None], plan: Plan, shards: Sequence[int], workers: int = 1, device: str = "cpu"
) -> Iterator[int]:
    """As `minoritybench.engine.run_shards`, on Ray actors with one CPU each and, for `cuda`, one GPU.

    A worker that dies is restarted and its shard tried again, so a shard may run twice; shards write atomically.
    """
    if not shards:
        return
    ray = _ray()
    with _session(ray, workers):
        resources = {"num_cpus": 1, "num_gpus": 1 if device == "cuda" else 0}
        actor = ray.remote(**resources, max_restarts=-1, max_task_retries=_RETRIES)(_Worker)
        actors = [actor.remote(sys.path, os.environ.get(_THREADS)) for _ in range(min(workers, len(shards)))]
        try:
            yield from _dispatch(ray, actors, resources, worker, plan, shards)
        finally:
            for handle in actors:
                ray.kill(handle, no_restart=True)


def _dispatch(
    ray: Any,
    actors: list[Any],
    resources: dict[str, int],
    worker: Callable[[Plan, int], None],
    plan: Plan,
    shards: Sequence[int],
) -> Iterator[int]:
    """Give each worker that is up one shard at a time; those the cluster has no room for yet cost nothing."""
    shared, folder = ray.put(plan), str(Path.cwd())
    waiting = list(reversed(shards))
    starting = {handle.version.remote(): handle for handle in actors}
    running: dict[Any, tuple[Any, int]] = {}
    waited = 0
    while running or waiting:
        done, _ = ray.wait([*running, *starting], num_returns=1, timeout=_NOTICE_SECONDS)
        if not done and not running:
            waited += _NOTICE_SECONDS
            _say_waiting(ray, resources, waited)
        for reference in done:
            if reference in starting:
                handle = starting.pop(reference)
                _check_version(_result(ray, reference))
            else:
                handle, shard = running.pop(reference)
                _result(ray, reference)
                yield shard
            if waiting:
                shard = waiting.pop()
                running[handle.run.remote(worker, shared, shard, folder)] = (handle, shard)


def _result(ray: Any, reference: Any) -> Any:
    """What a call returned; what it raised is raised here as it was, a user's error without the worker's traceback."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, MinorityBenchError):
            raise error.cause from None
        raise (error.cause if isinstance(error.cause, Exception) else error) from error
    except ray.exceptions.RayError as error:
        if "creation task" in str(error):  # the worker never came up
            reason = str(error).strip().splitlines()[-1].strip()
            raise BadInputError(
                f"a Ray node cannot run minoritybench ({reason}): install this version there"
            ) from error
        raise WorkerDiedError(
            f"a Ray worker died and so did {_RETRIES} that took over its shard, perhaps for memory;"
            " the same command resumes"
        ) from error


def _check_version(theirs: str) -> None:
    if theirs != minoritybench.__version__:
        raise BadInputError(
            f"a Ray node has minoritybench {theirs}, this one {minoritybench.__version__}: install one version on all"
        )


def _say_waiting(ray: Any, resources: dict[str, int], seconds: int) -> None:
    needs = " and ".join(f"{count} {name[4:-1].upper()}" for name, count in resources.items() if count)
    free = {name: int(count) for name, count in ray.available_resources().items() if name in ("CPU", "GPU")}
    told = f"Ray has placed no worker in {seconds} s: each needs {needs}, free are {free or 'none'}"
    if seconds >= _PLACEMENT_SECONDS:
        raise WorkerDiedError(f"{told}; the same command resumes when there is room")
    log.warning("%s; waiting", told)


@contextmanager
def _session(ray: Any, workers: int) -> Iterator[None]:
    """A connection to Ray: the caller's own if there is one, else one that ends with the run."""
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}  # stdout is data
    address = os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        if address:
            _knock(address)
            ray.init(address, **quiet)
        else:
            ray.init(
                "local",
                num_cpus=workers,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                **quiet,
            )
    except (OSError, ValueError) as error:
        where = f"at RAY_ADDRESS={address}" if address else "on this machine"
        raise BadInputError(f"--engine ray: no Ray {where}: {str(error).splitlines()[0]}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """See that someone listens at `[ray://]host:port`, for Ray itself tries for minutes. Errors: OSError."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_KNOCK_SECONDS).close()


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MissingDependencyError('--engine ray needs the ray package: pip install "minoritybench[ray]"') from error
