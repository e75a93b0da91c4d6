"""leaderboard check finds a README that cannot show a board."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from forged_records import saved

from minoritybench import evaluate, leaderboards

OPENING, CLOSING = "<!-- board:digits -->\n", "<!-- /board:digits -->\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no place\n", "the board digits has rows and no place here: add the lines <!-- board:digits --> and"),
        (f"{OPENING}end\n", "the markers of the board digits must be one pair"),
        (f"{CLOSING}end\n", "the markers of the board digits must be one pair"),
        (f"{CLOSING}{OPENING}end\n", "the markers of the board digits must be one pair"),
        (f"{OPENING}{CLOSING}{OPENING}{CLOSING}", "the markers of the board digits must be one pair"),
        (f"{OPENING[:-1]} {CLOSING}", "the markers of the board digits must be one pair"),
        (f"{OPENING}{CLOSING}<!-- board:cifar10 -->\n", "the markers of the board cifar10 must be one pair"),
    ],
)
def test_a_readme_that_cannot_show_a_board_is_found(boards: Path, text: str, message: str) -> None:
    readme = boards.parent / "README.md"
    readme.write_text(text)
    leaderboards.write_boards(boards / "results", boards)
    (fault,) = leaderboards.check(boards / "results", boards)
    assert fault.startswith(f"{readme}: {message}")


def test_a_readme_needs_no_place_for_boards_without_ranked_rows(boards: Path, tmp_path: Path) -> None:
    """Rows at other settings are not in its table; a folder without a README needs none."""
    readme = boards.parent / "README.md"
    readme.unlink()
    assert leaderboards.check(boards / "results", boards) == []
    shutil.rmtree(boards / "results")
    other = evaluate("ddim", n=12, settings={"stochasticity": 0.5}, out=tmp_path / "run")
    clean = other.minoritybench.model_copy(update={"commit": "0" * 40, "dirty": False})
    saved(other.model_copy(update={"minoritybench": clean}), tmp_path / "run" / "record.json")
    leaderboards.add(tmp_path / "run" / "record.json", boards / "results")
    readme.write_text("no place\n")
    leaderboards.write_boards(boards / "results", boards)
    assert leaderboards.check(boards / "results", boards) == []
