"""Filed records stay: against the commit where a branch began, deletions and edits are told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from forged_records import filed, flip_last_byte, git, tamper

from minoritybench import leaderboards
from minoritybench.cli.leaderboard import command
from minoritybench.errors import BadInputError


def faults(boards: Path, against: str = "main") -> list[str]:
    return [fault for fault in leaderboards.check(boards / "results", boards, against) if "filed records stay" in fault]


def test_nothing_is_told_of_new_records(checkout: Path, small: Path) -> None:
    assert faults(checkout) == []
    old = leaderboards.load_record(filed(checkout)).id
    leaderboards.add(small / "record.json", checkout / "results", supersedes=old)
    git(checkout.parent, "add", "-A")
    assert faults(checkout) == []


def test_deleting_the_whole_folder_is_told(checkout: Path) -> None:
    shutil.rmtree(checkout)
    assert len(faults(checkout)) == 3


@pytest.mark.parametrize("committed", [False, True])
def test_a_deleted_record_is_told_file_by_file(checkout: Path, committed: bool) -> None:
    folder = filed(checkout).parent
    shutil.rmtree(folder)
    if committed:
        git(checkout.parent, "commit", "-qam", "gone")
    told = faults(checkout)
    names = ("per_image.parquet", "record.json", "sheet.png")
    assert [fault.partition(" since")[0] for fault in told] == [f"{folder / name}: was deleted" for name in names]


def test_an_edited_record_or_sidecar_is_told_even_with_a_matching_id(checkout: Path) -> None:
    path = filed(checkout)
    tamper("command", "another", honest_id=True)(path)
    flip_last_byte(path.parent / "sheet.png")
    assert [fault.partition(" since")[0] for fault in faults(checkout)] == [
        f"{path}: was edited",
        f"{path.parent / 'sheet.png'}: was edited",
    ]


def test_a_moved_record_was_deleted_where_it_lay(checkout: Path) -> None:
    folder = filed(checkout).parent
    folder.rename(folder.with_name("elsewhere"))
    assert len(faults(checkout)) == 3


def test_what_main_filed_since_is_not_held_against_the_branch(checkout: Path) -> None:
    """Compared is the commit where the branch began, not the tip of main."""
    git(checkout.parent, "switch", "-q", "main")
    (checkout / "results" / "later.txt").write_text("main went on")
    git(checkout.parent, "add", "-A")
    git(checkout.parent, "commit", "-q", "-m", "later")
    git(checkout.parent, "switch", "-q", "branch")
    assert faults(checkout) == []


def test_unknown_commits_and_folders_outside_git_are_one_line(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for name in ("nowhere", "--output=x"):
        with pytest.raises(BadInputError, match=f"--against {name}: no such commit"):
            leaderboards.check(checkout / "results", checkout, name)
    git(checkout.parent, "switch", "-q", "--orphan", "alone")
    git(checkout.parent, "commit", "-q", "--allow-empty", "-m", "first")
    with pytest.raises(BadInputError, match="shares no history with HEAD"):
        leaderboards.check(checkout / "results", checkout, "main")
    bare = tmp_path_factory.mktemp("bare")
    with pytest.raises(BadInputError, match="no such commit"):
        leaderboards.check(bare / "results", bare, "main")


def test_the_command_names_each_file_and_fails(checkout: Path) -> None:
    arguments = ["check", "--results", str(checkout / "results"), "--out", str(checkout), "--against", "main"]
    assert CliRunner().invoke(command, arguments).exit_code == 0
    (filed(checkout).parent / "sheet.png").unlink()
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 1
    assert "sheet.png: was deleted since" in result.output
