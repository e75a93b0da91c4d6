"""rank-dataset --estimator cascade: the same set for fewer rows, honest fallbacks, resume, independence of batching."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import minoritybench
from minoritybench.errors import BadInputError

ENCODERS = Path(__file__).with_name("toy_rankings.py")
LIMIT = 600
ARTEFACTS = ("scores.parquet", "reference_set.json", "members.csv", "failures.csv", "gallery.html")


def rank(out: Path, kind: str, **options: object):  # type: ignore[no-untyped-def]
    return minoritybench.rank_dataset(
        options.pop("dataset", "digits"),
        out=out,
        encoder=f"{ENCODERS}:{kind}",
        **{"keep": "10%", "estimator": "cascade", "limit": LIMIT, **options},
    )


def contents(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ARTEFACTS}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    out = tmp_path_factory.mktemp("cascade") / "whole"
    return rank(out, "predictable")


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rank(tmp_path_factory.mktemp("cascade") / "exact", "predictable", estimator="exact").out


def test_lowest_are_those_of_the_exact_ranking_for_fewer_rows(whole, exact: Path) -> None:  # type: ignore[no-untyped-def]
    assert (whole.out / "members.csv").read_bytes() == (exact / "members.csv").read_bytes()
    assert whole.cost["row_fraction"] < 0.5  # of so few images the calibration alone is a fifth
    assert whole.cost["exact_fraction"] < whole.cost["row_fraction"]  # the sketch is counted
    recall = whole.reference_set.estimator["recall"]
    assert recall["found"] == recall["of"] > 0
    assert recall["low"] < recall["estimate"] == recall["high"] == 1.0


def test_only_exact_scores_are_scores(whole, exact: Path) -> None:  # type: ignore[no-untyped-def]
    scores = pd.read_parquet(whole.out / "scores.parquet")
    truth = pd.read_parquet(exact / "scores.parquet").set_index("id")["score_deflated"]
    assert len(scores) == LIMIT
    unscored = scores["score"].isna()
    assert unscored.mean() == pytest.approx(1 - whole.cost["exact_fraction"])
    for column in ("score_deflated", "rank", "rank_deficit"):
        assert (scores[column].isna() == unscored).all()
    assert (scores["proxy"].notna() == unscored).all()
    assert (scores.loc[~unscored, "score_deflated"].to_numpy() == truth[scores.loc[~unscored, "id"]].to_numpy()).all()
    guess = scores[unscored].set_index("id")["proxy"]
    assert np.corrcoef(guess, truth[guess.index])[0, 1] > 0.99
    members = pd.read_csv(whole.out / "members.csv")
    assert set(members["id"]) <= set(scores.loc[~unscored, "id"])
    assert guess.min() > members["score_deflated"].max()


def test_known_scores(whole, digits) -> None:  # type: ignore[no-untyped-def]
    members = pd.read_csv(whole.out / "members.csv")
    truth = 2 * np.sort(digits[:LIMIT, 0].reshape(-1, 4, 2, 4, 2).mean((2, 4)).sum((1, 2)).numpy())
    assert members["score"].to_numpy() == pytest.approx(truth[:60], abs=1e-4)


@pytest.mark.parametrize("kind", ["flat", "wild"])
def test_proxy_that_cannot_help_says_so_and_scores_everything(kind: str, tmp_path: Path) -> None:
    outcome = rank(tmp_path / "out", kind, limit=400)
    assert outcome.cost["exact_fraction"] == 1.0
    assert outcome.cost["row_fraction"] >= 1.0
    assert "too weak" in outcome.reference_set.estimator["fallback"]
    assert any("saved nothing" in warning for warning in outcome.warnings)
    scores = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    assert scores["score"].notna().all()
    assert scores["proxy"].isna().all()
    plain = rank(tmp_path / "plain", kind, limit=400, estimator="exact")
    assert plain.reference_set.sha256 == outcome.reference_set.sha256


def test_few_images_are_all_calibration(tmp_path: Path) -> None:
    outcome = rank(tmp_path / "out", "predictable", limit=60)
    assert outcome.cost["exact_fraction"] == outcome.cost["row_fraction"] == 1.0
    assert outcome.reference_set.n == 6


@pytest.mark.slow
def test_batch_workers_and_shards_change_nothing(whole, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    rank(tmp_path / "out", "predictable", batch_size=3, workers=2, shard_size=50)
    assert contents(tmp_path / "out") == contents(whole.out)


def test_second_run_computes_nothing(whole) -> None:  # type: ignore[no-untyped-def]
    before = {path: path.stat().st_mtime_ns for path in whole.out.glob("receipts/*")}
    again = rank(whole.out, "predictable")
    assert {path: path.stat().st_mtime_ns for path in whole.out.glob("receipts/*")} == before
    assert again.cost == whole.cost


@pytest.mark.slow
@pytest.mark.parametrize("receipts", [1, 4, 7])
def test_killed_anywhere_and_resumed_is_byte_identical(whole, tmp_path: Path, receipts: int) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "killed"
    words = [sys.executable, "-m", "minoritybench", "rank-dataset", "digits", "--encoder", f"{ENCODERS}:predictable"]
    words += ["--estimator", "cascade", "--keep", "10%", "--limit", str(LIMIT), "--out", str(out)]
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(out.glob("receipts/*.json"))) < receipts and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (out / "scores.parquet").exists()
    done = subprocess.run([*words, "--json"], check=True, capture_output=True)
    assert contents(out) == contents(whole.out)
    assert json.loads(done.stdout)["cost"]["row_fraction"] == whole.cost["row_fraction"]


def test_a_lost_round_is_done_again(whole, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "out"
    rank(out, "predictable")
    lost = sorted(out.glob("shards/round-*.parquet"))[0]
    lost.unlink()
    rank(out, "predictable")
    assert lost.is_file()
    assert contents(out) == contents(whole.out)


def test_failures_are_recorded_once_and_cost_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(200):
        level = rng.uniform(20, 200)
        pixels = np.clip(level + 20 * rng.normal(size=(8, 8)), 0, 220).astype(np.uint8)
        Image.fromarray(pixels).convert("RGB").save(folder / f"{index:03d}.png")
    Image.new("RGB", (8, 8), "white").save(folder / "bright.png")
    (folder / "text.png").write_text("not an image")
    outcome = rank(tmp_path / "out", "broken", dataset=str(folder), keep="20", limit=None)
    assert [failure["id"] for failure in outcome.failures] == ["bright.png", "text.png"]
    scores = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    assert len(scores) == 200
    plain = rank(tmp_path / "plain", "broken", dataset=str(folder), keep="20", limit=None, estimator="exact")
    assert plain.reference_set.sha256 == outcome.reference_set.sha256


def test_per_class_keeps_the_lowest_of_every_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name, low in (("dark", 10), ("light", 120)):
        (tmp_path / "in" / name).mkdir(parents=True)
        for index in range(300):
            pixels = np.clip(low + rng.uniform(0, 80) + 10 * rng.normal(size=(8, 8)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).convert("RGB").save(tmp_path / "in" / name / f"{index:03d}.png")
    options = {"dataset": str(tmp_path / "in"), "keep": None, "per_class": 15, "limit": None}
    plain = rank(tmp_path / "plain", "predictable", **options, estimator="exact")
    outcome = rank(tmp_path / "out", "predictable", **options)
    plain_ids = set(pd.read_csv(plain.out / "members.csv")["id"])
    assert set(pd.read_csv(outcome.out / "members.csv")["id"]) == plain_ids
    assert outcome.cost["exact_fraction"] < 1.0


def test_single_scores_are_not_for_the_cascade(digits) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadInputError, match="rank_dataset"):
        minoritybench.jepa_score(minoritybench.load_encoder("digits-jepa"), digits[:2], estimator="cascade")
