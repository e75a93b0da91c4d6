"""--dry-run: measured, extrapolated, nothing written."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import minoritybench
from minoritybench import rank_estimate
from minoritybench.cli.rank import command
from minoritybench.rank_estimate import estimate
from minoritybench.rank_job import RankRequest, prepare_job
from minoritybench.rank_shard import Trial


def test_the_estimate_is_near_what_the_run_takes_and_leaves(tmp_path: Path) -> None:
    request = RankRequest("digits", out=tmp_path / "out")
    guess = estimate(prepare_job(request))
    assert list(tmp_path.iterdir()) == []
    started = time.perf_counter()
    minoritybench.rank_dataset("digits", out=tmp_path / "out")
    taken = time.perf_counter() - started
    left = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert guess["calibration"]["images"] == 64
    assert taken / 8 < guess["estimated_seconds"] < taken * 8  # a shared machine is no clock
    assert left / 2 < guess["estimated_bytes"] < left * 2


def test_time_grows_with_micro_batches_and_shrinks_with_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_estimate, "score_first", lambda plan: Trial(64, 2.0, 100.0, 64.0))
    monkeypatch.setattr(rank_estimate, "_pairs", lambda job, trial: 0.0)
    for limit, shard_size, workers, seconds in [(64, 256, 1, 2), (65, 256, 1, 4), (200, 100, 1, 8), (200, 100, 2, 4)]:
        request = RankRequest("digits", limit=limit, shard_size=shard_size, workers=workers)
        assert estimate(prepare_job(request))["estimated_seconds"] == seconds


def test_a_search_among_all_images_costs_their_square() -> None:
    trial = Trial(64, 1.0, 100.0, 64.0)
    few, many = (
        min(
            rank_estimate._pairs(prepare_job(RankRequest("digits", limit=n, rank_by="avgknn")), trial) for _ in range(3)
        )
        for n in (50, 1500)
    )
    assert 300 < many / few < 2700  # 900 but for the clock


def test_dry_run_as_text_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = CliRunner().invoke(command, ["digits", "--dry-run"]).stdout
    assert "images: 1500" in text
    assert "shards: 6" in text
    assert text.count("estimate") == 2
    facts = json.loads(CliRunner().invoke(command, ["digits", "--limit", "10", "--dry-run", "--json"]).stdout)
    assert facts["images"] == facts["calibration"]["images"] == 10
    assert facts["estimated_bytes"] > 0
    assert list(tmp_path.iterdir()) == []


def test_unreadable_images_leave_the_time_open(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_text("no")
    result = CliRunner().invoke(command, [str(tmp_path / "in"), "--dry-run"])
    assert "unknown" in result.stdout


@pytest.mark.parametrize(("estimator", "told"), [("cascade", True), ("exact", False)])
def test_a_cascades_time_is_called_an_upper_bound(
    estimator: str, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["digits", "--limit", "10", "--dry-run", "--estimator", estimator]
    assert ("that of the exact ranking, an upper bound" in CliRunner().invoke(command, words).stdout) == told
    assert ("note" in json.loads(CliRunner().invoke(command, [*words, "--json"]).stdout)) == told
