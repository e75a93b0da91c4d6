"""compare: overlap, chance and rank correlation of two reference sets."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy.stats import spearmanr

import minoritybench
from minoritybench.cli.compare import command
from minoritybench.comparison import compare_references
from minoritybench.errors import BadInputError

N, KEEP = 120, 30


@pytest.fixture(scope="module")
def rankings(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("compare")
    minoritybench.rank_dataset("digits", out=root / "jepa", limit=N, keep=str(KEEP))
    minoritybench.rank_dataset("digits", out=root / "avgknn", limit=N, keep=str(KEEP), rank_by="avgknn")
    return root / "jepa", root / "avgknn"


def test_figures_from_the_files_themselves(rankings: tuple[Path, Path]) -> None:
    a, b = (pd.read_csv(folder / "members.csv")["id"] for folder in rankings)
    ranks = [pd.read_parquet(folder / "scores.parquet").set_index("id")["rank"].astype(int) for folder in rankings]
    shared = len(set(a) & set(b))
    found = compare_references(*rankings)
    assert (found.n_a, found.n_b, found.shared, found.population) == (KEEP, KEEP, shared, N)
    assert found.jaccard == pytest.approx(shared / (2 * KEEP - shared))
    assert found.share_of_a_in_b == found.share_of_b_in_a == pytest.approx(shared / KEEP)
    assert found.expected_shared == pytest.approx(KEEP * KEEP / N)
    assert found.rank_spearman == pytest.approx(spearmanr(ranks[0], ranks[1].loc[ranks[0].index]).statistic)
    assert found.ranked == N
    assert found.classes == {}


def test_a_set_agrees_with_itself(rankings: tuple[Path, Path]) -> None:
    found = compare_references(rankings[0], rankings[0])
    assert (found.jaccard, found.share_of_a_in_b) == (1.0, 1.0)
    assert found.rank_spearman == pytest.approx(1.0)


def test_images_without_a_rank_are_not_counted_among_the_ranked(rankings: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(rankings[1], tmp_path / "part")
    scores = pd.read_parquet(rankings[1] / "scores.parquet")
    scores["rank"] = scores["rank"].astype("Int64").mask(scores["rank"] > 50)
    scores.to_parquet(tmp_path / "part" / "scores.parquet")
    found = compare_references(rankings[0], tmp_path / "part")
    assert (found.population, found.ranked) == (N, 50)
    words = [str(rankings[0]), str(tmp_path / "part"), "--out", str(tmp_path / "page.html")]
    assert "(ranks of 50 images)" in CliRunner().invoke(command, words).stdout
    assert "over 50 images" in (tmp_path / "page.html").read_text()


def test_without_scores_chance_is_known_for_the_same_images_only(rankings: tuple[Path, Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(rankings[1], bare)
    (bare / "scores.parquet").unlink()
    found = compare_references(rankings[0], bare)
    assert found.rank_spearman is None
    assert found.expected_shared == pytest.approx(KEEP * KEEP / N)
    other = compare_references("digits", bare)
    assert other.population is other.expected_shared is None
    assert other.n_a == 375


def test_unequal_sizes_and_different_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(12):
        for name in ("in", "other"):
            file = tmp_path / name / f"class{number % 2}" / f"{number:02d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            if name == "other" and number < 9:
                shutil.copy(tmp_path / "in" / f"class{number % 2}" / file.name, file)
            else:
                Image.fromarray(pixels).save(file)
    minoritybench.rank_dataset(str(tmp_path / "in"), out=tmp_path / "a", keep="12")
    minoritybench.rank_dataset(str(tmp_path / "other"), out=tmp_path / "b", per_class=3)
    found = compare_references(tmp_path / "a", tmp_path / "b")
    members = pd.read_csv(tmp_path / "b" / "members.csv")["id"]
    same = members[members.str[-6:-4].astype(int) < 9]
    assert (found.n_a, found.n_b, found.population, found.shared) == (12, 6, 9, len(same))
    assert found.expected_shared == pytest.approx(9 * len(same) / 9)
    assert sum(map(sum, found.classes.values())) == 12 + 6 - len(same)
    assert set(found.classes) == {"class0", "class1"}


def test_table_json_and_page(rankings: tuple[Path, Path], tmp_path: Path) -> None:
    words = [str(folder) for folder in rankings]
    assert "Jaccard" in CliRunner().invoke(command, words).stdout
    page = tmp_path / "compare.html"
    done = CliRunner().invoke(command, [*words, "--json", "--out", str(page)])
    facts = json.loads(done.stdout)
    text = page.read_text()
    assert text.count("<img") == 2 * KEEP - facts["shared"]
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert CliRunner().invoke(command, [*words, "--out", str(page)]).exit_code == 0  # ours: written again
    assert page.read_text() == text


def test_a_file_that_is_not_ours_stays(rankings: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "notes.html").write_text("mine")
    done = CliRunner().invoke(command, [*map(str, rankings), "--out", str(tmp_path / "notes.html")])
    assert isinstance(done.exception, BadInputError)
    assert (tmp_path / "notes.html").read_text() == "mine"
