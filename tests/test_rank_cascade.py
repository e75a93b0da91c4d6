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
from minoritybench import rank_cascade
from minoritybench.errors import BadInputError
from minoritybench.rank import worker_plan
from minoritybench.rank_job import RankRequest, prepare_job
from minoritybench.rng import derived_seed
from minoritybench.scoring.cascade import calibration_size

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
    for column in ("score_deflated", "rank_deficit"):
        assert (scores[column].isna() == unscored).all()
    assert (scores["proxy"].notna() == unscored).all()
    assert (scores.loc[~unscored, "score_deflated"].to_numpy() == truth[scores.loc[~unscored, "id"]].to_numpy()).all()
    guess = scores[unscored].set_index("id")["proxy"]
    assert np.corrcoef(guess, truth[guess.index])[0, 1] > 0.99
    members = pd.read_csv(whole.out / "members.csv")
    assert set(members["id"]) <= set(scores.loc[~unscored, "id"])
    assert guess.min() > members["score_deflated"].max()


def test_a_rank_is_only_given_where_it_is_that_of_the_exact_ranking(whole, exact: Path) -> None:  # type: ignore[no-untyped-def]
    scores = pd.read_parquet(whole.out / "scores.parquet").set_index("id")
    truth = pd.read_parquet(exact / "scores.parquet").set_index("id")["rank"].astype(int)
    ranked = scores["rank"].dropna().astype(int)
    assert (ranked == truth[ranked.index]).all()
    assert sorted(ranked) == list(range(1, 61))
    above = scores[scores["score"].notna() & scores["rank"].isna()]
    assert len(above) > 60  # scored in vain, or to fit: unscored images lie among them
    assert above["score_deflated"].min() > scores.loc[ranked.index, "score_deflated"].max()
    page = (whole.out / "gallery.html").read_text()
    assert f"{scores['score'].notna().sum()} of {LIMIT} images scored exactly by" in page
    assert "<h2>Highest of those scored exactly</h2>" in page
    assert 'title="no rank: ' in page
    assert "common end</h2>" not in page


def test_figures_that_take_every_score_are_left_out_and_said_to_be(whole) -> None:  # type: ignore[no-untyped-def]
    assert "knn_spearman" not in whole.reference_set.statistics
    assert any("kNN density was not computed" in warning for warning in whole.warnings)


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
    assert outcome.reference_set.statistics == plain.reference_set.statistics  # the density figure among them
    assert outcome.reference_set.statistics["knn_images"] == 400
    ranks = [pd.read_parquet(tmp_path / name / "scores.parquet")["rank"].tolist() for name in ("out", "plain")]
    assert ranks[0] == ranks[1]
    page = (tmp_path / "out" / "gallery.html").read_text()
    assert "400 of 400 images scored exactly by" in page
    assert "Highest: the common end" in page


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


def folder_with_broken(folder: Path, broken: set[int]) -> str:
    """300 files, of which these are no images."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    for index in range(300):
        pixels = np.clip(rng.uniform(0, 200) + 10 * rng.normal(size=(8, 8)), 0, 255).astype(np.uint8)
        if index in broken:
            (folder / f"{index:03d}.png").write_text("not an image")
        else:
            Image.fromarray(pixels).convert("RGB").save(folder / f"{index:03d}.png")
    return str(folder)


def drawn(total: int) -> list[int]:
    """The calibration sample of so many images, in the order in which it is drawn."""
    order = np.random.default_rng(derived_seed(0, "cascade-calibration")).permutation(total)
    return order[: calibration_size(total)].tolist()


def test_a_broken_beginning_of_a_folder_leaves_enough_to_whiten_with(tmp_path: Path) -> None:
    dataset = folder_with_broken(tmp_path / "in", set(range(200)))
    outcome = rank(tmp_path / "out", "predictable", dataset=dataset, limit=None)
    plain = rank(tmp_path / "plain", "predictable", dataset=dataset, limit=None, estimator="exact")
    assert len(outcome.failures) == 200
    assert outcome.reference_set.sha256 == plain.reference_set.sha256
    whitened = pd.read_parquet(tmp_path / "out" / "shards" / "whiten-000000.parquet")["id"]
    assert whitened.tolist() == [f"{index:03d}.png" for index in sorted(drawn(300)[:64]) if index >= 200]
    assert outcome.reference_set.estimator["rows"] == 1


def test_without_one_image_to_whiten_with_everything_is_scored(tmp_path: Path) -> None:
    dataset = folder_with_broken(tmp_path / "in", set(drawn(300)[:64]))
    outcome = rank(tmp_path / "out", "predictable", dataset=dataset, limit=None)
    plain = rank(tmp_path / "plain", "predictable", dataset=dataset, limit=None, estimator="exact")
    assert outcome.reference_set.sha256 == plain.reference_set.sha256
    assert outcome.cost["exact_fraction"] == outcome.cost["row_fraction"] == 1.0
    assert "probes" in outcome.reference_set.estimator["fallback"]


@pytest.mark.parametrize(("most", "of_sample", "of_others"), [(1024, 80, 200), (100, 80, 20), (50, 50, 0)])
def test_the_random_sample_stays_in_the_fit(
    most: int, of_sample: int, of_others: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_cascade, "_FIT_POINTS", most)
    request = RankRequest("digits", out=tmp_path, limit=LIMIT, estimator="cascade", encoder=f"{ENCODERS}:predictable")
    job = prepare_job(request)
    cascade = rank_cascade._Cascade(job, worker_plan(job))
    cascade.features = {name: np.zeros((LIMIT, 1), np.float32) for name in rank_cascade.BLOCKS}
    others = np.flatnonzero(~cascade.sample)[:200]
    sample = drawn(LIMIT)
    cascade.scores[sample] = np.random.default_rng(0).normal(size=len(sample))
    cascade.scores[others] = np.linspace(-3, -1, 200)
    points = cascade._fit_points()
    assert set(points) & set(sample) == set(sample[40 : 40 + of_sample])  # the first third is held out
    assert len(set(points) & set(others)) == of_others
    assert (np.diff(cascade.scores[points]) >= 0).all()


def test_a_rank_within_every_class_is_not_for_the_cascade(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="--per-class"):
        rank(tmp_path / "out", "predictable", keep=None, per_class=15)
    assert not (tmp_path / "out").exists()
