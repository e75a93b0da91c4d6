"""The study page tells nothing of the sides, a browser's answers are saved as given, and the tally finds them again."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import binomtest, t
from toy_runs import drawn

from minoritybench.cli import cli
from minoritybench.errors import BadInputError
from minoritybench.metrics.value import t_interval
from minoritybench.report.pictures import png_bytes
from minoritybench.study import StudyKey, build_study
from minoritybench.study_tally import Vote, clustered_interval, krippendorff_alpha, tally, tally_text, wilson_interval

PROMPTS = ("a <script>alert(1)</script> seven & more", "a thin zero", "a wide two")


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs of six images each: shades 40 to 52 and 140 to 152."""
    return (
        drawn(tmp_path / "plain-run", prompts=PROMPTS),
        drawn(tmp_path / "guided-run", "jepa", shade=100, prompts=PROMPTS, eta=2.0),
    )


def built(runs: tuple[Path, Path], folder: Path, **options: Any) -> tuple[str, StudyKey]:
    folder.mkdir(exist_ok=True)
    key = build_study(runs, folder / "page.html", folder / "key.json", **{"pairs": 6, **options})
    return (folder / "page.html").read_text(), key


def shades(page: str) -> list[bytes]:
    return [base64.b64decode(uri) for uri in re.findall(r'src="data:image/png;base64,([^"]+)', page)]


def png(shade: int) -> bytes:
    return png_bytes(np.full((8, 8, 3), shade, dtype=np.uint8))


def test_each_pair_shows_both_runs_at_one_place_as_the_key_says(runs: tuple[Path, Path], tmp_path: Path) -> None:
    page, key = built(runs, tmp_path / "study")
    expected = []
    for pair in key.pairs:
        base = 10 * pair.seed + pair.index
        expected += [png(base), png(base + 100)] if pair.left == "A" else [png(base + 100), png(base)]
    assert shades(page) == expected
    assert sorted((pair.seed, pair.index) for pair in key.pairs) == [(s, i) for s in (4, 5) for i in range(3)]
    assert sum(pair.left == "A" for pair in key.pairs) == 3
    assert key.methods == {"A": "ddim", "B": "jepa"}
    assert json.loads((tmp_path / "study" / "key.json").read_text()) == key.model_dump(mode="json")


def test_the_page_names_no_method_folder_seed_or_file(runs: tuple[Path, Path], tmp_path: Path) -> None:
    page, _ = built(runs, tmp_path / "study", order_seed=90125)
    told = re.sub(r"base64,[^\"]+|sha256-[^']+", "", page)
    for word in ("ddim", "jepa", "eta", "plain-run", "guided-run", "90125", "seed", ".png", "toy"):
        assert word not in told.lower().replace("<meta", "")


def test_order_follows_the_seed_and_nothing_else(runs: tuple[Path, Path], tmp_path: Path) -> None:
    first, key = built(runs, tmp_path / "one", order_seed=3)
    assert built(runs, tmp_path / "two", order_seed=3) == (first, key)
    other = [built(runs, tmp_path / f"s{seed}", order_seed=seed)[1] for seed in range(8)]
    assert len({tuple((p.seed, p.index) for p in one.pairs) for one in other}) > 1
    assert len({tuple(p.left for p in one.pairs) for one in other}) > 1
    assert len({one.study for one in other}) == 8


def test_markup_in_a_prompt_is_text_and_the_policy_allows_one_script(runs: tuple[Path, Path], tmp_path: Path) -> None:
    page, _ = built(runs, tmp_path / "study")
    assert html.escape(PROMPTS[0]) in page
    [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"script-src 'sha256-{digest}';" in policy
    assert not re.search(r"https?://|url\(|<link|@import|fetch\(", page)


def test_without_prompts_the_first_question_speaks_of_none(tmp_path: Path) -> None:
    bare = tuple(drawn(tmp_path / name, shade=shade, prompts=None) for name, shade in (("a", 0), ("b", 100)))
    page, key = built((bare[0], bare[1]), tmp_path / "study")
    assert "text" not in key.questions["quality"]
    assert 'class="prompt"' not in page
    (tmp_path / "lines.txt").write_text("one\ntwo\nthree\n")
    page, key = built((bare[0], bare[1]), tmp_path / "told", prompts=str(tmp_path / "lines.txt"))
    assert "text" in key.questions["quality"]
    assert [["one", "two", "three"][pair.index] for pair in key.pairs] == re.findall(r'class="prompt">(\w+)<', page)


def test_what_cannot_be_asked_is_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="--pairs 7: the runs have 6 pairs of different images; ask for --pairs 6"):
        built(runs, tmp_path / "study", pairs=7)
    with pytest.raises(BadInputError, match="and 6 in which both are the same"):
        built((runs[0], runs[0]), tmp_path / "study", pairs=1)
    other = drawn(tmp_path / "other", generator="another", shade=50, prompts=PROMPTS)
    with pytest.raises(BadInputError, match="another generator"):
        built((runs[0], other), tmp_path / "study")
    (tmp_path / "lines.txt").write_text("one\ntwo\nthree\n")
    with pytest.raises(BadInputError, match="was drawn for other prompts"):
        built(runs, tmp_path / "study", prompts=str(tmp_path / "lines.txt"))
    (tmp_path / "lines.txt").write_text("one\ntwo\n")
    with pytest.raises(BadInputError, match="2 prompts, but the runs have images up to number 2"):
        built(runs, tmp_path / "study", prompts=str(tmp_path / "lines.txt"))


def test_a_key_whose_answers_may_be_out_is_kept(runs: tuple[Path, Path], tmp_path: Path) -> None:
    built(runs, tmp_path / "study")
    before = (tmp_path / "study" / "key.json").read_text()
    built(runs, tmp_path / "study")
    with pytest.raises(BadInputError, match="is not this study's key"):
        built(runs, tmp_path / "study", order_seed=1)
    assert (tmp_path / "study" / "key.json").read_text() == before


def written(folder: Path, key: StudyKey, rater: str, prefers_a: dict[str, list[bool | None]]) -> Path:
    """An answers file in which the rater prefers A, or not, pair by pair; None leaves a question out."""
    answers = []
    for question, wishes in prefers_a.items():
        for pair, wish in zip(key.pairs, wishes, strict=True):
            if wish is not None:
                side = "left" if wish == (pair.left == "A") else "right"
                answers.append({"pair": pair.pair, "question": question, "choice": side})
    path = folder / f"{rater}.json"
    kind = "minoritybench study answers"
    path.write_text(json.dumps({"kind": kind, "study": key.study, "rater": rater, "answers": answers}))
    return path


def test_the_tally_is_what_was_answered(runs: tuple[Path, Path], tmp_path: Path) -> None:
    _, key = built(runs, tmp_path / "study")
    wishes = {
        "ann": {"quality": [True] * 6, "atypicality": [False] * 6},
        "bob": {"quality": [True, True, True, False, False, None], "atypicality": [False] * 5 + [True]},
    }
    files = [written(tmp_path, key, rater, asked) for rater, asked in wishes.items()]
    facts = tally(files, [tmp_path / "study" / "key.json"])
    assert facts["raters"] == 2
    quality, atypical = facts["questions"]["quality"], facts["questions"]["atypicality"]
    assert (quality["answers"], quality["possible"]) == (11, 12)
    assert quality["preferred"]["A"] == pytest.approx(9 / 11)
    assert atypical["preferred"]["A"] == pytest.approx(1 / 12)
    assert atypical["preferred"]["B"] == pytest.approx(11 / 12)
    exact = binomtest(9, 11).proportion_ci(method="wilson")
    assert quality["preferred"]["A_wilson"] == pytest.approx([exact.low, exact.high])
    items = [(n, v) for asked in wishes.values() for n, v in enumerate(asked["quality"]) if v is not None]
    assert quality["agreement"]["value"] == pytest.approx(krippendorff_alpha(items))


def clustered(table: list[list[bool]]) -> tuple[float, float]:
    """The clustered interval of a table of answers, raters by pairs."""
    return clustered_interval(
        [Vote("", (0, pair), str(rater), one) for rater, row in enumerate(table) for pair, one in enumerate(row)]
    )


def test_raters_who_agree_leave_the_t_interval_over_pairs() -> None:
    shares = [True, True, False, True, True, False, True]
    _, low, high = t_interval([float(share) for share in shares])
    for raters in (1, 2, 9):
        assert clustered([shares] * raters) == pytest.approx((low, min(high, 1.0)))


def test_raters_who_always_choose_one_side_leave_the_t_interval_over_raters() -> None:
    sides = [True] * 11 + [False] * 9
    _, low, high = t_interval([float(side) for side in sides])
    for pairs in (1, 2, 9):
        assert clustered([[side] * pairs for side in sides]) == pytest.approx((low, high))


@pytest.mark.parametrize("table", [[[True] * 8] * 5, [[True] * 8], [[True, False] * 4, [False, True] * 4]])
def test_without_spread_it_is_wilsons_over_pairs(table: list[list[bool]]) -> None:
    exact = binomtest(8 if all(table[0]) else 4, 8).proportion_ci(method="wilson")
    assert clustered(table) == pytest.approx((exact.low, exact.high))


def test_the_clustered_interval_adds_both_variances() -> None:
    """Where everyone answers everything, those of the raters' and of the pairs' own shares."""
    table = np.random.default_rng(5).random((6, 10)) < np.linspace(0.2, 0.8, 10)
    parts = [(shares.var(ddof=1) / len(shares), len(shares) - 1) for shares in (table.mean(axis=1), table.mean(axis=0))]
    variance = sum(part for part, _ in parts)
    half = t.ppf(0.975, variance**2 / sum(part**2 / degrees for part, degrees in parts)) * variance**0.5
    assert clustered(table.tolist()) == pytest.approx((table.mean() - half, table.mean() + half))


def test_the_tally_tells_the_clustered_interval(runs: tuple[Path, Path], tmp_path: Path) -> None:
    _, key = built(runs, tmp_path / "study")
    wishes: list[bool | None] = [True, True, True, True, False, True]
    files = [written(tmp_path, key, name, {"quality": wishes}) for name in ("ann", "bob")]
    facts = tally(files, [tmp_path / "study" / "key.json"])
    preferred = facts["questions"]["quality"]["preferred"]
    _, low, _ = t_interval([1.0, 1.0, 1.0, 1.0, 0.0, 1.0])
    assert preferred["A_clustered"] == pytest.approx([low, 1.0])
    assert f"[{low:.1%}, 100.0%]" in tally_text(facts)
    assert facts["questions"]["atypicality"]["preferred"] is None


def test_pages_of_other_orders_are_counted_together(runs: tuple[Path, Path], tmp_path: Path) -> None:
    keys = [built(runs, tmp_path / str(seed), order_seed=seed)[1] for seed in (1, 2)]
    files = []
    for key, rater in zip(keys, ("ann", "bob"), strict=True):  # by place: both prefer A where the index is 0
        wishes: list[bool | None] = [pair.index == 0 for pair in key.pairs]
        files.append(written(tmp_path, key, rater, {"quality": wishes, "atypicality": wishes}))
    facts = tally(files, [tmp_path / "1" / "key.json", tmp_path / "2" / "key.json"])
    assert facts["questions"]["quality"]["preferred"]["A"] == pytest.approx(1 / 3)
    assert facts["questions"]["quality"]["agreement"]["value"] == pytest.approx(1.0)


def test_answers_that_fit_no_key_are_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    _, key = built(runs, tmp_path / "study")
    place = tmp_path / "study" / "key.json"
    whole = {"quality": [True] * 6, "atypicality": [True] * 6}
    good = written(tmp_path, key, "ann", dict(whole))
    document = json.loads(good.read_text())
    spoiled = tmp_path / "spoiled.json"
    first = document["answers"][0]
    for change, said in (
        ({"study": "0" * 16}, "whose key is not among --key"),
        ({"answers": [{**first, "pair": 7}]}, "no pair 7"),
        ({"answers": [{**first, "question": "other"}]}, "a question 'other'"),
        ({"answers": [first, first]}, "is answered twice"),
        ({"answers": [{**first, "choice": "both"}]}, "answers.0.choice"),
        ({"rater": ""}, "rater"),
        ({"kind": "something"}, "kind"),
    ):
        spoiled.write_text(json.dumps({**document, **change}))
        with pytest.raises(BadInputError, match=said):
            tally([spoiled], [place])
    for content in ("[]", "3", "{}", '"text"'):
        spoiled.write_text(content)
        with pytest.raises(BadInputError, match=r"spoiled\.json does not hold answers that the study page saved$"):
            tally([spoiled], [place])
        with pytest.raises(BadInputError, match=r"spoiled\.json does not hold a key that `study build` wrote$"):
            tally([good], [spoiled])
    with pytest.raises(BadInputError, match="'ann' has answered in"):
        tally([good, shutil.copy(good, tmp_path / "again.json")], [place])
    done = CliRunner().invoke(cli, ["study", "tally", str(good), "--key", str(tmp_path / "none.json")])
    assert done.exit_code == 2
    assert "none.json" in done.output


def test_alpha_of_a_published_example() -> None:
    """Krippendorff 2011, section C: four observers, twelve units, missing values; nominal alpha 0.743."""
    observers = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
    ratings = [(unit, value) for row in observers for unit, value in enumerate(row) if value != "."]
    assert krippendorff_alpha(ratings) == pytest.approx(0.743, abs=5e-4)


def test_alpha_at_its_ends() -> None:
    assert krippendorff_alpha([(0, 1), (0, 1), (1, 2), (1, 2)]) == 1.0
    assert krippendorff_alpha([(0, 1), (0, 1)]) is None  # nothing to tell agreement from
    assert krippendorff_alpha([(0, 1), (1, 2)]) is None  # nobody looked at the same pair
    assert krippendorff_alpha([(0, 1), (0, 2), (1, 1), (1, 2)]) == pytest.approx(-0.5)


@pytest.mark.parametrize(("count", "total"), [(0, 5), (5, 5), (3, 7), (186, 310)])
def test_wilson_equals_scipy(count: int, total: int) -> None:
    exact = binomtest(count, total).proportion_ci(method="wilson")
    assert wilson_interval(count, total) == pytest.approx((exact.low, exact.high), abs=1e-12)
