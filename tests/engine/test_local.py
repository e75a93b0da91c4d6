"""The local engine: every shard once, errors pass through, dead workers are reported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy_workers import die_on_one, fail_on_three, note_gpu, touch

from minoritybench.engine import run_shards
from minoritybench.engine.local import WorkerDiedError, take_gpu
from minoritybench.errors import BadInputError


@pytest.mark.parametrize("workers", [1, 2])
def test_every_shard_runs_once(workers: int, tmp_path: Path) -> None:
    assert sorted(run_shards(touch, str(tmp_path), [4, 0, 2], workers)) == [0, 2, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "2", "4"]


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_reach_the_caller(workers: int, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="three"):
        list(run_shards(fail_on_three, str(tmp_path), range(5), workers))


def test_killed_worker_is_reported(tmp_path: Path) -> None:
    with pytest.raises(WorkerDiedError, match="resumes"):
        list(run_shards(die_on_one, str(tmp_path), range(3), 2))


def test_workers_take_the_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for number in range(3):
        for device in ("cuda", "cuda:1", "cpu"):
            take_gpu(device, number)
    assert taken == [0, 1, 0]


def test_worker_processes_are_numbered_from_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes on a machine whose `torch`, a stand-in, has three GPUs; both shards wait for each other."""
    (tmp_path / "torch.py").write_text(
        "class cuda:\n"
        "    device_count = staticmethod(lambda: 3)\n"
        "    chosen = None\n"
        "    @classmethod\n"
        "    def set_device(cls, number): cls.chosen = number\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))  # spawned processes begin with the parent's path
    assert sorted(run_shards(note_gpu, str(tmp_path), [0, 1], 2, device="cuda")) == [0, 1]
    assert sorted((tmp_path / f"gpu-{shard}").read_text() for shard in (0, 1)) == ["0", "1"]
