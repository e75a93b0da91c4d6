"""Shard workers for engine tests; a module of their own, because worker processes import them by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from minoritybench.errors import BadInputError


def touch(folder: str, shard: int | str) -> None:
    with (Path(folder) / str(shard)).open("x"):
        pass


def fail_on_three(folder: str, shard: int) -> None:
    touch(folder, shard)
    if shard == 3:
        raise BadInputError("shard three is bad")


def die_on_one(folder: str, shard: int) -> None:
    if shard == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def die_once_on_one(folder: str, shard: int) -> None:
    if shard == 1 and not (Path(folder) / "died").exists():
        touch(folder, "died")
        os.kill(os.getpid(), signal.SIGKILL)
    touch(folder, shard)


def count_threads(folder: str, shard: int) -> None:
    import torch

    (Path(folder) / str(shard)).write_text(str(torch.get_num_threads()))


class Unstartable:
    """A Ray worker of a module that the node does not have: it searches no path of its caller's."""

    def __init__(self, *_: object) -> None:
        pass

    def version(self) -> str:
        return ""

    def run(self, *_: object) -> None:
        return None


def note_gpu(folder: str, shard: int) -> None:
    """Write down which GPU this process took, once the other of two shards has begun elsewhere."""
    import torch

    Path(folder, f"begun-{shard}").touch()
    deadline = time.monotonic() + 60
    while not Path(folder, f"begun-{1 - shard}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    Path(folder, f"gpu-{shard}").write_text(str(torch.cuda.chosen))  # type: ignore[attr-defined]  # a stand-in
