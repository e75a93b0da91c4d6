"""Figures from papers: the shipped files, their schema, and their place on boards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from minoritybench import leaderboards
from minoritybench.errors import BadInputError
from minoritybench.published import PublishedTable, load_published
from minoritybench.records import load_benchmark
from minoritybench.registry import entries
from minoritybench.report.board import board_markdown
from minoritybench.report.published import HEADING, published_page
from minoritybench.report.tables import board_data

LEADERBOARDS = Path(__file__).parents[1] / "leaderboards"
SHIPPED = LEADERBOARDS / "published"
MINORITY_PAPER = ("celeba64", "imagenet256", "sd15-coco", "sdxl-lightning-coco")


def shipped_table(board: str, start: str) -> PublishedTable:
    (table,) = [table for table in load_published(SHIPPED)[board].tables if table.table.startswith(start)]
    return table


def values(table: PublishedTable, label: str) -> dict[str, Any]:
    (row,) = [row for row in table.rows if row.label == label]
    return row.values


def test_every_table_is_shipped_with_its_source() -> None:
    boards = load_published(SHIPPED)
    assert {name: len(board.tables) for name, board in boards.items()} == {
        "celeba64": 4,
        "imagenet256": 1,
        "sd15-coco": 6,
        "sdxl-lightning-coco": 2,
        "djepa-imagenet256": 2,
    }
    assert values(shipped_table("celeba64", "Table 1"), "jepa")["JEPA-SCORE"] == -300.79
    assert values(shipped_table("imagenet256", "Table 1"), "adm")["cFID"] == 26.44
    assert values(shipped_table("djepa-imagenet256", "Tables 1"), "mage")["precision"] is None
    assert [row.label for row in shipped_table("sd15-coco", "Table 2").rows] == [
        "ddim",
        "cads",
        "sgms",
        "minorityprompt",
        "jepa",
    ]


@pytest.mark.parametrize("part", ["Table 5a", "Table 5b"])
def test_table_5_adds_up(part: str) -> None:
    """The error is the SVD's plus the truncation's, to the digits printed, and the offset ratio follows."""
    for row in shipped_table("celeba64", part).rows:
        v = {name: value for name, value in row.values.items() if value is not None}
        assert v["JS-JSbar"] == pytest.approx(v["e_RSVD"] + v["e_Trunc"], abs=0.015)
        assert v["offset_ratio_percent"] == pytest.approx(100 * (1 - v["e_Trunc_delta"] / v["e_Trunc"]), abs=0.05)
        assert v["bound_Trunc"] > v["e_Trunc"]


def test_tables_2_and_6_print_the_same_rows() -> None:
    first, cost = shipped_table("sd15-coco", "Table 2"), shipped_table("sd15-coco", "Table 6")
    for row in cost.rows:
        same = {name: value for name, value in row.values.items() if name != "seconds_per_sample"}
        assert same.items() <= values(first, row.label).items()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "my notes"}, "tables.0.source"),
        ({"surprise": 1}, "tables.0.surprise"),
        ({"steps": 0}, "tables.0.steps"),
        ({"rows": []}, "tables.0.rows"),
        ({"rows": [{"label": "adm", "values": {"cFID": 1.0}}]}, "row 'adm' must have the values of"),
        ({"columns": [{"name": "cFID", "better": "up", "decimals": 2}]}, "tables.0.columns.0.better"),
        ({"notes": ["see <img src=//example.org/x>"]}, "tables.0.notes.0 holds markup, '<img'"),
        ({"head": "method\n| a | row |"}, "tables.0.head holds a character that cannot be seen, U+000A"),
        ({"encoder": "x\u202e"}, "tables.0.encoder holds a character that cannot be seen, U+202E"),
        ({"table": "x" * 1001}, "tables.0.table has 1,001 characters"),
    ],
)
def test_a_faulty_file_is_one_line_of_check(boards: Path, change: dict[str, Any], message: str) -> None:
    shutil.copytree(SHIPPED, boards / "published")
    leaderboards.write_boards(boards / "results", boards)
    assert leaderboards.check(boards / "results", boards) == []
    path = boards / "published" / "celeba64.json"
    document = json.loads(path.read_text())
    document["tables"][0].update(change)
    path.write_text(json.dumps(document))
    (fault,) = leaderboards.check(boards / "results", boards)
    assert fault.startswith(str(path))
    assert message in fault


def test_more_digits_than_printed_and_a_second_row_of_a_name_are_refused(tmp_path: Path) -> None:
    for change, message in ((12.115, "more than 2 decimals"), (None, "two rows have one label")):
        document = json.loads((SHIPPED / "imagenet256.json").read_text())
        rows = document["tables"][0]["rows"]
        if change is None:
            rows.append(rows[0])
        else:
            rows[0]["values"]["cFID"] = change
        (tmp_path / "imagenet256.json").write_text(json.dumps(document))
        with pytest.raises(BadInputError, match=message):
            load_published(tmp_path)


def test_a_file_under_another_boards_name_is_refused(tmp_path: Path) -> None:
    shutil.copy(SHIPPED / "celeba64.json", tmp_path / "digits.json")
    with pytest.raises(BadInputError, match=r"board: is 'celeba64', the file's name says 'digits'"):
        load_published(tmp_path)


def test_published_rows_stand_apart_unranked_in_the_papers_order() -> None:
    published = load_published(SHIPPED)["celeba64"]
    page = board_markdown(board_data(load_benchmark("celeba64"), [], published=published))
    measured, _, copied = page.partition(HEADING)
    assert "No measured row yet." in measured
    assert "| adm |" not in measured
    assert "**" not in copied
    assert "<u>" not in copied
    assert "| method | cFID ↓ | sFID ↓ | precision ↑ | recall ↑ | density ↑ | coverage ↑ | JEPA-SCORE ↓ |" in copied
    assert "| jepa | 8.50 | 4.94 | 0.82 | 0.65 | 1.09 | 0.98 | -300.79 |" in copied
    assert "| jepa | 0.902 | 0.775 | 0.824 | 0.731 | 30000 |" in copied


def test_dashes_and_unknowns_are_said() -> None:
    page = published_page(load_published(SHIPPED)["djepa-imagenet256"])
    assert "No measured row yet." in page
    assert "| sit-xl | 675 | 8.60 | – | – | – |" in page
    assert "samples: 50,000; not given: reference images, steps, encoder." in page


@pytest.mark.parametrize("name", MINORITY_PAPER)
def test_each_board_of_the_paper_says_which_convention_its_scores_have(name: str) -> None:
    text = (LEADERBOARDS / f"{name}.md").read_text("utf-8")
    for said in ("registers", "antialiasing", "normalisation", "Tables 1 and 5 of arXiv:2605.24631 cannot share one"):
        assert said in text, said


def test_there_is_a_board_for_every_benchmark_and_every_file_of_figures() -> None:
    names = {*entries("benchmarks"), *load_published(SHIPPED)}
    assert {path.stem for path in LEADERBOARDS.glob("*.md")} == names


@pytest.mark.slow
@pytest.mark.parametrize(
    "surroundings",
    [
        {
            "LC_ALL": "C",
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
            "TZ": "Pacific/Kiritimati",
            "PYTHONHASHSEED": "1",
        },
        {"LC_ALL": "C.UTF-8", "TZ": "America/St_Johns", "PYTHONHASHSEED": "4000000000"},
    ],
)
def test_boards_have_the_same_bytes_in_other_surroundings(tmp_path: Path, surroundings: dict[str, str]) -> None:
    command = [sys.executable, "-m", "minoritybench", "leaderboard", "build"]
    command += ["--results", str(LEADERBOARDS / "results"), "--out", str(tmp_path)]
    subprocess.run(command, env={**os.environ, **surroundings}, check=True, capture_output=True)
    shipped = {path.name: path.read_bytes() for kind in ("md", "html") for path in LEADERBOARDS.glob(f"*.{kind}")}
    assert "index.html" in shipped
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == shipped
