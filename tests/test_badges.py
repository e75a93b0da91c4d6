"""Badges: earned by measuring again, kept apart from the records, and checked like them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import run
from forged_records import filed, forge_metric, tamper

import minoritybench
from minoritybench import leaderboards, measure_shard, provenance, sample_shard
from minoritybench.badges import Badge, add_badge, badge_of, load_badges, read_badges
from minoritybench.errors import BadInputError
from minoritybench.records import RunRecord, ToolRecord, load_record

COMMIT = "a" * 40


def badge_for(record: RunRecord, **changes: Any) -> Badge:
    facts = {
        "record": record.id,
        "badge": "ci",
        "by": "the weekly job",
        "on": "2026-01-31",
        "commit": COMMIT,
        "device": "cpu (Linux x86_64)",
        "seeds": [11],
        "n": record.sampling.n,
        "largest_drift": 0.25,
        "metric": "FD (digits-pca20)",
    }
    return Badge.model_validate({**facts, **changes})


def entries(boards: Path) -> Any:
    return json.loads((boards / "badges.json").read_text())


def ask(boards: Path, *options: str) -> tuple[int, str]:
    """Ask for a badge of the one filed record."""
    start = load_record(filed(boards)).id[:12]
    return run("leaderboard", "badge", start, "--results", str(boards / "results"), "--by", "the weekly job", *options)


def give(boards: Path, badge: Badge) -> None:
    """Note a badge and build the boards that show it."""
    add_badge(boards / "results", badge)
    leaderboards.write_boards(boards / "results", boards)


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Says whether the working tree is taken for dirty; at first it is clean."""

    def take(dirty: bool) -> None:
        tool = ToolRecord(version=minoritybench.__version__, commit=COMMIT, dirty=dirty)
        for module in (provenance, measure_shard, sample_shard):
            monkeypatch.setattr(module, "tool_record", lambda: tool)

    take(False)
    return take


def test_a_row_is_measured_again_and_gets_its_badge(boards: Path, tree: Callable[[bool], None]) -> None:
    record = load_record(filed(boards))
    code, output = ask(boards, "--as", "ci")
    assert code == 0, output
    assert output.count("\nok ") == len(record.metrics)
    (entry,) = entries(boards)
    facts = {key: entry[key] for key in ("record", "badge", "by", "commit", "seeds", "n")}
    assert facts == {
        "record": record.id,
        "badge": "ci",
        "by": "the weekly job",
        "commit": COMMIT,
        "seeds": [11],
        "n": record.sampling.n,
    }
    assert entry["device"] == record.environment.device
    assert entry["largest_drift"] == 0.0  # the same machine
    leaderboards.write_boards(boards / "results", boards)
    assert leaderboards.check(boards / "results", boards) == []


def test_a_later_badge_replaces_its_kind_and_both_kinds_may_stand(boards: Path, tree: Callable[[bool], None]) -> None:
    assert ask(boards, "--as", "maintainer", "--seed", "13", "--seed", "11", "--seed", "11")[0] == 0
    add_badge(boards / "results", badge_for(load_record(filed(boards))))
    assert ask(boards, "--as", "ci", "--seed", "12")[0] == 0
    assert [(entry["badge"], entry["seeds"]) for entry in entries(boards)] == [("ci", [12]), ("maintainer", [11, 13])]
    leaderboards.write_boards(boards / "results", boards)
    assert leaderboards.check(boards / "results", boards) == []


def test_the_largest_drift_is_a_fraction_of_the_tolerance(boards: Path, tree: Callable[[bool], None]) -> None:
    """FD may drift by 2 % of what was recorded, and what was recorded is 1 % above what is measured."""
    path = filed(boards)
    before = {metric.name: metric.per_seed for metric in load_record(path).metrics}["FD (digits-pca20)"]
    raised = {seed: value * 1.01 for seed, value in before.items()}
    forge_metric("FD (digits-pca20)", per_seed=raised)(path)
    path.parent.rename(boards / "results" / leaderboards.record_place(load_record(path)))
    assert ask(boards, "--as", "ci")[0] == 0
    (entry,) = entries(boards)
    assert entry["metric"] == "FD (digits-pca20)"
    assert entry["largest_drift"] == pytest.approx(0.01 / (0.02 * 1.01), rel=1e-9)


def test_a_row_that_comes_out_otherwise_gets_none(boards: Path, tree: Callable[[bool], None]) -> None:
    path = filed(boards)
    forge_metric("FD (digits-pca20)", per_seed={"11": 1.0, "12": 2.0, "13": 3.0})(path)
    path.parent.rename(boards / "results" / leaderboards.record_place(load_record(path)))
    code, output = ask(boards, "--as", "maintainer", "--seed", "12")
    assert code == 1
    assert "OFF FD (digits-pca20)" in output
    assert "no badge: FD (digits-pca20) of seed 12 differs beyond its tolerance" in output
    assert not (boards / "badges.json").exists()


def test_a_dirty_tree_gives_none_and_measures_nothing(boards: Path, tree: Callable[[bool], None]) -> None:
    tree(True)
    code, output = ask(boards, "--as", "ci")
    assert code == 1
    assert output.count("\n") == 1
    assert "no badge from a dirty tree" in output
    assert not (boards / "badges.json").exists()


def test_a_tree_that_becomes_dirty_on_the_way_gives_none(
    boards: Path, tree: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    edited = ToolRecord(version=minoritybench.__version__, commit=COMMIT, dirty=True)
    monkeypatch.setattr(measure_shard, "tool_record", lambda: edited)
    code, output = ask(boards, "--as", "ci")
    assert (code, "no badge from a dirty tree" in output) == (1, True)
    assert not (boards / "badges.json").exists()


def test_a_faulty_record_is_not_run_at_all(boards: Path, tree: Callable[[bool], None], tmp_path: Path) -> None:
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nclass Trap: pass\n")
    tamper("method.name", f"{trap}:Trap", honest_id=True)(filed(boards))
    code, output = ask(boards, "--as", "ci")
    assert (code, "unknown method" in output, output.count("\n")) == (1, True, 1)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--as", "ci", "--seed", "5"), "has the seeds [11, 12, 13], not [5]"),
        (("--as", "ci", "--by", "<b>me</b>"), "--by '<b>me</b>' must be plain text"),
        (("--as", "ci", "--by", ""), "--by '' must be plain text"),
        (("--as", "self"), "'self' is not one of"),
        ((), "Missing option '--as'"),
    ],
)
def test_wrong_options_are_one_line(
    boards: Path, tree: Callable[[bool], None], options: tuple[str, ...], message: str
) -> None:
    code, output = ask(boards, *options)
    assert (code, message in output) == (2, True), output
    assert not (boards / "badges.json").exists()


def test_an_id_must_be_that_of_one_record(boards: Path, tree: Callable[[bool], None]) -> None:
    for start in ("zz", "/etc/passwd"):
        options = ("--as", "ci", "--by", "me", "--results", str(boards / "results"))
        code, output = run("leaderboard", "badge", start, *options)
        assert (code, f"ID '{start}' is the start of 0 filed" in output) == (2, True)


def test_a_record_cannot_claim_its_own_badge(boards: Path) -> None:
    tamper("badge", "maintainer")(filed(boards))
    (fault,) = leaderboards.check(boards / "results", boards)
    assert "there is no 'badge'" in fault


def test_what_is_shown(boards: Path) -> None:
    record, results = load_record(filed(boards)), boards / "results"
    assert load_badges(results) == {}
    assert badge_of(record, load_badges(results)) == "self"
    add_badge(results, badge_for(record, badge="maintainer"))
    add_badge(results, badge_for(record))
    assert badge_of(record, load_badges(results)) == "maintainer"
    assert load_badges(results)[record.id].badge == "maintainer"
    assert [badge.badge for badge in read_badges(results)] == ["ci", "maintainer"]
    assert badge_of(record.model_copy(update={"id": "f" * 64}), load_badges(results)) == "self"


def test_the_badge_of_a_superseded_record_stays(boards: Path, small: Path) -> None:
    old = load_record(filed(boards))
    add_badge(boards / "results", badge_for(old))
    place = leaderboards.add(small / "record.json", boards / "results", supersedes=old.id)
    leaderboards.write_boards(boards / "results", boards)
    assert leaderboards.check(boards / "results", boards) == []
    assert badge_of(load_record(place / "record.json"), load_badges(boards / "results")) == "self"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"record": "f" * 64}, "entry 1 (ci of ffffffffff): no record of that id is filed"),
        ({"record": "F" * 64}, "entry 1: record: "),
        ({"record": "ab12"}, "entry 1: record: "),
        ({"badge": "self"}, "entry 1: badge: Input should be 'ci' or 'maintainer'"),
        ({"by": "<script>alert(1)</script>"}, "entry 1: by: Value error, must be plain text"),
        ({"by": "[me](https://example.org)"}, "entry 1: by: Value error, must be plain text"),
        ({"by": "a | b"}, "entry 1: by: Value error, must be plain text"),
        ({"by": "two\nlines"}, "entry 1: by: Value error, must be plain text"),
        ({"by": " padded "}, "entry 1: by: Value error, must be plain text"),
        ({"by": "x" * 121}, "entry 1: by: Value error, must be plain text"),
        ({"device": "`cpu`"}, "entry 1: device: Value error, must be plain text"),
        ({"on": "yesterday"}, "entry 1: on: "),
        ({"on": "20260131"}, "entry 1: on: Value error, must be a date like 2026-01-31"),
        ({"on": "2026-02-30"}, "entry 1: on: "),
        ({"commit": "main"}, "entry 1: commit: "),
        ({"seeds": [11, 5]}, "seeds [11, 5] must be of the record's [11, 12, 13]"),
        ({"seeds": [11, 11]}, "seeds [11, 11] must be of the record's [11, 12, 13], each once"),
        ({"seeds": []}, "entry 1: seeds: "),
        ({"seeds": ["11"]}, "entry 1: seeds.0: Input should be a valid integer"),
        ({"n": 1000}, "n is 1000, the record has 12"),
        ({"largest_drift": 1.01}, "entry 1: largest_drift: Input should be less than or equal to 1"),
        ({"largest_drift": -0.1}, "entry 1: largest_drift: "),
        ({"largest_drift": float("nan")}, "entry 1: largest_drift: "),
        ({"metric": "charm"}, "metric 'charm' is none of the record's"),
        ({"surprise": 1}, "entry 1: there is no 'surprise'; known: record, badge"),
    ],
)
def test_a_wrong_field_is_a_fault(boards: Path, change: dict[str, Any], message: str) -> None:
    give(boards, badge_for(load_record(filed(boards))))
    assert leaderboards.check(boards / "results", boards) == []
    (entry,) = entries(boards)
    (boards / "badges.json").write_text(json.dumps([{**entry, **change}]))
    (fault,) = leaderboards.check(boards / "results", boards)
    assert fault.startswith(f"{boards / 'badges.json'}: entry 1")
    assert message in fault
    assert len(fault.splitlines()) == 1


def test_entries_are_sorted_and_none_stands_twice(boards: Path) -> None:
    record = load_record(filed(boards))
    for badge in ("maintainer", "ci"):
        add_badge(boards / "results", badge_for(record, badge=badge))
    first, second = entries(boards)
    (boards / "badges.json").write_text(json.dumps([second, first, second, {**second, "by": "another"}]))
    told = [fault.partition("badges.json: ")[2] for fault in leaderboards.check(boards / "results", boards)]
    start = record.id[:10]
    assert told == [
        f"entry 2 (ci of {start}): not in its place: entries are sorted by record, then badge",
        f"entry 3 (maintainer of {start}): a second one of the same record and badge",
        f"entry 4 (maintainer of {start}): a second one of the same record and badge",
    ]


@pytest.mark.parametrize("text", ["", "{}", "null", "[1]", "[[]]", '"\\ud800"', "[" * 100_000, '[{"record": 1}]'])
def test_a_file_that_holds_no_badges_is_one_fault_and_no_traceback(
    boards: Path, tree: Callable[[bool], None], text: str
) -> None:
    (boards / "badges.json").write_text(text)
    (fault,) = leaderboards.check(boards / "results", boards)
    assert "badges.json" in fault
    with pytest.raises(BadInputError, match=r"badges\.json"):
        load_badges(boards / "results")
    code, output = ask(boards, "--as", "ci")
    assert (code, "badges.json" in output) == (2, True)
    assert (boards / "badges.json").read_text() == text


def test_check_names_the_file_and_fails(boards: Path) -> None:
    add_badge(boards / "results", badge_for(load_record(filed(boards)), seeds=[5]))
    code, output = run("leaderboard", "check", "--results", str(boards / "results"), "--out", str(boards))
    assert code == 1
    assert f"{boards / 'badges.json'}: entry 1" in output
    (boards / "badges.json").write_text('[{"badge": "ci"}]')
    code, output = run("leaderboard", "check", "--results", str(boards / "results"), "--out", str(boards))
    told = f"{boards / 'badges.json'}: entry 1: record: Field required\n"
    assert (code, output) == (1, f"{told}1 fault in the leaderboards\n")


def test_boards_show_who_measured_a_row(boards: Path) -> None:
    assert f"`{load_record(filed(boards)).id[:10]}` self |" in (boards / "digits.md").read_text()
    add_badge(boards / "results", badge_for(load_record(filed(boards))))
    leaderboards.write_boards(boards / "results", boards)
    assert f"`{load_record(filed(boards)).id[:10]}` ci |" in (boards / "digits.md").read_text()
    page = (boards / "index.html").read_text()
    assert '<span class="badge earned">ci</span>' in page
    assert "ci: again by the weekly job on 2026" in page
