"""rank-dataset: artefacts, resume after SIGKILL, independence of batching, odd folders."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import minoritybench
from minoritybench.errors import BadInputError, CheckFailedError
from minoritybench.microbatch import torch_threads
from minoritybench.rank import NothingScoredError
from minoritybench.rank_job import RankRequest, prepare_job
from minoritybench.references import HIGHEST_FILE, MEMBER_COLUMNS, load_reference_set, parse_keep, reference_folder

ARTEFACTS = ("scores.parquet", "reference_set.json", "members.csv", "failures.csv", "gallery.html")
SQUARE = """class Mine:
    def prepare(self, x): return x.mean(1).flatten(1)
    def __call__(self, x): return x**2
"""
COLUMNS = ["id", "sha256", "score", "score_deflated", "rank", "rank_deficit", "proxy", "width", "height"]


def contents(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ARTEFACTS}


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rank") / "whole"
    minoritybench.rank_dataset("digits", out=out, shard_size=64)
    return out


def test_the_highest_of_an_embedded_set_are_those_of_a_ranking(ranked: Path) -> None:
    scores = pd.read_parquet(ranked / "scores.parquet").sort_values("rank", ascending=False)
    shipped = pd.read_csv(reference_folder("digits") / HIGHEST_FILE)
    assert list(shipped.columns) == MEMBER_COLUMNS
    assert shipped["id"].tolist() == scores["id"].head(len(shipped)).tolist()
    assert shipped["score"].tolist() == pytest.approx(scores["score"].head(len(shipped)).tolist(), abs=1e-4)


def test_artefacts_have_the_promised_columns(ranked: Path) -> None:
    scores = pd.read_parquet(ranked / "scores.parquet")
    assert list(scores.columns) == COLUMNS
    assert len(scores) == 1500
    assert scores["id"].is_monotonic_increasing
    assert scores["proxy"].isna().all()
    order = scores.sort_values(["score_deflated", "id"])
    assert (order["rank"].to_numpy() == np.arange(1, 1501)).all()
    members = pd.read_csv(ranked / "members.csv")
    assert members["id"].tolist() == order["id"].head(375).tolist()
    recipe = json.loads((ranked / "reference_set.json").read_text())
    assert recipe["n"] == 375
    assert recipe["threshold"] == members["score_deflated"].max()
    assert recipe["encoder"]["jacobian_wrt"] == "network_input"
    assert (ranked / "failures.csv").read_text() == "id,error\n"


def test_scores_are_those_of_the_api(ranked: Path, digits) -> None:  # type: ignore[no-untyped-def]
    scores = pd.read_parquet(ranked / "scores.parquet")
    encoder = minoritybench.load_encoder("digits-jepa")
    assert (minoritybench.jepa_score(encoder, digits).numpy() == scores["score_deflated"].to_numpy()).all()
    assert (minoritybench.jepa_score(encoder, digits, mode="reference").numpy() == scores["score"].to_numpy()).all()


def test_shipped_reference_set_is_what_the_command_makes(ranked: Path) -> None:
    shipped, made = load_reference_set("digits"), load_reference_set(ranked)
    assert shipped.recipe.sha256 == made.recipe.sha256
    assert len(shipped.images()) == 375


def test_second_run_computes_nothing(ranked: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in ranked.glob("shards/*")}
    again = minoritybench.rank_dataset("digits", out=ranked, shard_size=64)
    assert {path: path.stat().st_mtime_ns for path in ranked.glob("shards/*")} == before
    assert again.reference_set.n == 375


@pytest.mark.slow
def test_killed_and_resumed_run_is_byte_identical(ranked: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    words = [sys.executable, "-m", "minoritybench", "rank-dataset", "digits", "--out", str(out)]
    child = subprocess.Popen([*words, "--shard-size", "64", "--batch-size", "5"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(out.glob("receipts/*.json"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    done = len(list(out.glob("receipts/*.json")))
    assert 5 <= done < 24
    assert not (out / "scores.parquet").exists()
    subprocess.run(
        [*words, "--shard-size", "500", "--batch-size", "200", "--workers", "2"], check=True, capture_output=True
    )
    assert contents(out) == contents(ranked)


def test_odd_files_end_scored_or_as_failures(tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8), dtype=np.uint8))
    for index in range(4):
        grey.rotate(90 * index).convert("RGB").save(folder / f"{index}.png")
    grey.convert("CMYK").save(folder / "cmyk.jpg")
    (folder / "text.png").write_text("not an image")
    (folder / "zero.png").write_bytes(b"")
    outcome = minoritybench.rank_dataset(str(folder), out=tmp_path / "out", encoder="digits-jepa", keep="2")
    assert [failure["id"] for failure in outcome.failures] == ["text.png", "zero.png"]
    assert outcome.reference_set.conversions == {"CMYK -> RGB": 1}
    scores = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    assert set(scores["id"]) == {"0.png", "1.png", "2.png", "3.png", "cmyk.jpg"}
    failures = pd.read_csv(tmp_path / "out" / "failures.csv")
    assert "0 bytes" in failures.set_index("id").loc["zero.png", "error"]
    assert len(load_reference_set(tmp_path / "out").images()) == 2


def test_nothing_but_broken_files_leaves_the_reasons(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_text("no")
    with pytest.raises(NothingScoredError, match=r"none of the 1 images") as caught:
        minoritybench.rank_dataset(str(tmp_path / "in"), out=tmp_path / "out")
    assert caught.value.exit_code == 5
    assert (tmp_path / "out" / "failures.csv").read_text().startswith("id,error\na.png,")


def test_a_failed_image_only_makes_a_set_of_all_smaller(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_text("no")
    for shade in (10, 90):
        Image.new("RGB", (8, 8), (shade, 3 * shade // 2, 200)).save(tmp_path / "in" / f"{shade}.png")
    outcome = minoritybench.rank_dataset(tmp_path / "in", out=str(tmp_path / "out"), keep=3)
    assert outcome.reference_set.n == 2
    assert any("kept 2 images" in warning for warning in outcome.warnings)


def test_output_that_overlaps_its_input_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for shade in ("red", "olive"):
        Image.new("RGB", (8, 8), shade).save(folder / f"{shade}.png")
    for out in (folder, tmp_path):
        with pytest.raises(BadInputError, match="overlaps"):
            minoritybench.rank_dataset(folder, out=out, force=True)
    assert sorted(path.name for path in folder.iterdir()) == ["olive.png", "red.png"]


def test_the_folder_one_stands_in_can_be_ranked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for shade in ("red", "olive"):
        Image.new("RGB", (8, 8), shade).save(tmp_path / f"{shade}.png")
    monkeypatch.chdir(tmp_path)
    first = minoritybench.rank_dataset(".", keep="1")
    assert minoritybench.rank_dataset(".", keep="1").out == first.out
    assert any("digits-jepa" in warning and "--encoder" in warning for warning in first.warnings)


def test_scores_depend_on_no_grouping_at_two_threads(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text(
        "import torch\nclass Mine:\n    threads = 2\n    def __init__(self):\n"
        "        self.w = torch.randn(3072, 64, generator=torch.manual_seed(0)) / 50\n"
        "    def prepare(self, x): return torch.nn.functional.interpolate(x, size=(32, 32)).flatten(1)\n"
        "    def __call__(self, x): return torch.tanh(x @ self.w)\n"
    )
    tables = []
    for size in (17, 9, 1):
        out = tmp_path / str(size)
        minoritybench.rank_dataset("digits", out=out, encoder=f"{code}:Mine", limit=17, shard_size=size)
        tables.append((out / "scores.parquet").read_bytes())
    assert tables[1:] == tables[:1] * 2


def test_an_edited_but_possible_shard_size_is_other_work_cut_anew(tmp_path: Path) -> None:
    out = tmp_path / "out"
    minoritybench.rank_dataset("digits", out=out, limit=100, shard_size=50)
    before = contents(out)
    plan = json.loads((out / "plan.json").read_text())
    (out / "plan.json").write_text(json.dumps({**plan, "shard_size": 25}))
    minoritybench.rank_dataset("digits", out=out, limit=100, shard_size=50)
    assert contents(out) == before


@pytest.mark.parametrize("size", [0, -5, "64", True, None])
def test_an_edited_shard_size_is_not_trusted(size: object, tmp_path: Path) -> None:
    out = tmp_path / "out"
    minoritybench.rank_dataset("digits", out=out, limit=20, shard_size=8)
    plan = json.loads((out / "plan.json").read_text())
    (out / "plan.json").write_text(json.dumps({**plan, "shard_size": size}))
    with pytest.raises(BadInputError, match="shard_size"):
        minoritybench.rank_dataset("digits", out=out, limit=20, shard_size=8)


def test_started_work_keeps_its_thread_count(tmp_path: Path) -> None:
    """Scores of an encoder without a thread count of its own belong to the count that the work was started with."""
    code = tmp_path / "mine.py"
    code.write_text(SQUARE)
    options = {"out": tmp_path / "out", "encoder": f"{code}:Mine", "limit": 9}
    minoritybench.rank_dataset("digits", **options)
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["encoder"]["threads"] == torch.get_num_threads()
    with torch_threads(torch.get_num_threads() + 1):
        minoritybench.rank_dataset("digits", **options)
    assert json.loads((tmp_path / "out" / "plan.json").read_text()) == plan


def test_edited_user_code_is_other_work(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    text = (
        "class Mine:\n    def prepare(self, x): return x.mean(1).flatten(1)\n    def __call__(self, x): return x**2\n"
    )
    options = {"out": tmp_path / "out", "encoder": f"{code}:Mine", "limit": 9}
    code.write_text(text)
    minoritybench.rank_dataset("digits", **options)
    code.write_text(text.replace("**2", "**3"))
    with pytest.raises(BadInputError, match="code_sha256"):
        minoritybench.rank_dataset("digits", **options)


def test_a_receipt_without_its_facts_is_done_again(ranked: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    minoritybench.rank_dataset("digits", out=out, limit=20, shard_size=8)
    before = contents(out)
    receipt = out / "receipts" / "score-000001.json"
    receipt.write_text(json.dumps({**json.loads(receipt.read_text()), "facts": {}}))
    minoritybench.rank_dataset("digits", out=out, limit=20, shard_size=8)
    assert contents(out) == before


def test_changed_folder_is_not_resumed_as_if_it_were_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGB", (8, 8), "red").save(folder / "a.png")
    Image.new("RGB", (8, 8), "blue").save(folder / "b.png")
    minoritybench.rank_dataset(str(folder), out=tmp_path / "out", keep="1")
    Image.new("RGB", (8, 8), "green").save(folder / "c.png")
    with pytest.raises(BadInputError, match="holds other work"):
        minoritybench.rank_dataset(str(folder), out=tmp_path / "out", keep="1")


def test_per_class_keeps_the_lowest_of_every_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name in ("cat", "dog"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for index in range(5):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(
                tmp_path / "in" / name / f"{index}.png"
            )
    outcome = minoritybench.rank_dataset(str(tmp_path / "in"), out=tmp_path / "out", per_class=2)
    members = pd.read_csv(tmp_path / "out" / "members.csv")
    assert members["id"].str.split("/").str[0].value_counts().to_dict() == {"cat": 2, "dog": 2}
    assert outcome.reference_set.keep.per_class == 2


def test_user_encoder_file_with_its_own_weights(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "class Mine:\n"
        "    name, dim = 'mine', 3\n"
        "    def prepare(self, images): return images.mean((2, 3))\n"
        "    def __call__(self, x): return x ** 2\n"
    )
    outcome = minoritybench.rank_dataset(
        "digits", out=tmp_path / "out", encoder=f"{tmp_path / 'mine.py'}:Mine", limit=20
    )
    scores = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    images = load_reference_set(tmp_path / "out").images()
    lowest = np.log(2 * images[0].pixels.reshape(-1, 3).mean(0) / 255).sum()
    assert outcome.reference_set.encoder["dim"] == 3
    assert scores["score"].min() == pytest.approx(lowest, abs=1e-5)


def test_rsvd_ranking_says_that_it_approximates(tmp_path: Path) -> None:
    outcome = minoritybench.rank_dataset("digits", out=tmp_path / "out", estimator="rsvd", limit=70)
    assert outcome.reference_set.estimator["approximation"] == "sum of the top k only"
    assert outcome.cost["exact_fraction"] == 0.0
    assert outcome.reference_set.threshold is None
    scores = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    assert scores[["score", "score_deflated", "rank_deficit"]].isna().all(axis=None)
    assert (scores.sort_values("rank")["proxy"].diff().dropna() >= 0).all()
    assert len(load_reference_set(tmp_path / "out").images()) == outcome.reference_set.n == 18


@pytest.mark.parametrize(("estimator", "said"), [("exact", ""), ("rsvd", "sum of the top k only; ")])
def test_bfloat16_ranking_says_that_it_approximates(estimator: str, said: str, tmp_path: Path) -> None:
    outcome = minoritybench.rank_dataset(
        "digits", out=tmp_path / "out", estimator=estimator, limit=20, dtype="bfloat16"
    )
    assert outcome.reference_set.estimator["approximation"] == f"{said}rows in bfloat16, for ranking only"
    assert [warning for warning in outcome.warnings if "rows in bfloat16, for ranking only" in warning]
    assert "rows in bfloat16, for ranking only" in (tmp_path / "out" / "gallery.html").read_text()


def test_full_precision_is_no_approximation(ranked: Path) -> None:
    assert "approximation" not in load_reference_set(ranked).recipe.estimator


def test_inputs_of_varying_size_name_the_encoder(tmp_path: Path) -> None:
    for side in (4, 5):
        Image.new("RGB", (side, side), (9 * side, 0, 0)).save(tmp_path / f"{side}.png")
    (tmp_path / "mine.py").write_text(SQUARE.replace("x.mean(1).flatten(1)", "x"))
    with pytest.raises(BadInputError, match=r"Mine.prepare returns \(3, 4, 4\) for one image and \(3, 5, 5\)"):
        minoritybench.rank_dataset(tmp_path, out=tmp_path / "out", encoder=f"{tmp_path / 'mine.py'}:Mine", keep="1")


@pytest.mark.parametrize(
    ("request_text", "total", "kept"), [("25%", 1500, 375), ("10", 20, 10), ("0.1%", 10, 1), ("100%", 7, 7)]
)
def test_keep(request_text: str, total: int, kept: int) -> None:
    assert parse_keep(request_text, total) == kept


@pytest.mark.parametrize("request_text", ["0", "-1", "0%", "101%", "many", "21"])
def test_impossible_keep_is_refused(request_text: str) -> None:
    with pytest.raises(BadInputError, match="--keep"):
        parse_keep(request_text, 20)


def test_edited_members_are_noticed(ranked: Path, tmp_path: Path) -> None:
    for name in ("reference_set.json", "members.csv"):
        (tmp_path / name).write_bytes((ranked / name).read_bytes())
    text = (tmp_path / "members.csv").read_text().splitlines(keepends=True)
    (tmp_path / "members.csv").write_text("".join(text[:-1]))
    with pytest.raises(CheckFailedError, match="edited or cut"):
        load_reference_set(tmp_path)


@pytest.mark.parametrize(
    ("name", "shown"), [("my photos (2)", "my-photos-2"), ("Übung.v2", "Übung.v2"), ("x" * 60, "x" * 40)]
)
def test_default_output_is_called_after_the_folder(name: str, shown: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "0.png")
    out = prepare_job(RankRequest(str(folder))).out
    title, _, identity = out.name.rpartition("-")
    assert (out.parent, title) == (Path("runs"), f"rank-folder-{shown}")
    assert re.fullmatch("[0-9a-f]{12}", identity)
    assert prepare_job(RankRequest(str(folder), shard_size=1)).out == out
