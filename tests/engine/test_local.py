"""The local engine: every shard once, errors pass through, dead workers are reported."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_workers import die_on_one, fail_on_three, touch

from minoritybench.engine import run_shards
from minoritybench.engine.local import WorkerDiedError
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
