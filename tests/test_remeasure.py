"""leaderboard check --remeasure: what the records say is what the code gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from command_line import run
from forged_records import filed, forge_metric, git

from minoritybench import leaderboards
from minoritybench.cli.leaderboard import command
from minoritybench.records import RunRecord, load_benchmark, load_record
from minoritybench.registry import entries
from minoritybench.remeasure import drifts, measure_again

SHIPPED = Path(__file__).parents[1] / "leaderboards" / "results"


def check(boards: Path, *options: str) -> tuple[int, str]:
    arguments = ["check", "--results", str(boards / "results"), "--out", str(boards), *options]
    result = CliRunner().invoke(command, arguments)
    return result.exit_code, result.output


def test_every_row_and_seed_is_measured_again(boards: Path) -> None:
    code, output = check(boards, "--remeasure", "all")
    assert code == 0
    metrics = load_record(filed(boards)).metrics
    assert output.count("\nok ") == 3 * len(metrics)
    assert all(f"seed {seed}\n" in output for seed in (11, 12, 13))


def test_one_seed_of_a_method_and_a_distance_that_is_not_so(boards: Path) -> None:
    """The features behind a distance are not filed: only measuring again finds it."""
    forge_metric("FD (digits-pca20)", per_seed={"11": 1.0, "12": 2.0, "13": 3.0})(filed(boards))
    path = filed(boards)
    path.parent.rename(boards / "results" / leaderboards.record_place(load_record(path)))
    leaderboards.write_boards(boards / "results", boards)
    assert check(boards)[0] == 0
    code, output = check(boards, "--remeasure", "adm", "--seed", "12")
    assert code == 1
    (line,) = [line for line in output.splitlines() if line.startswith("OFF")]
    assert "FD (digits-pca20)" in line
    assert "recorded     2.0000" in line


def test_new_records_are_measured_again_on_all_seeds(
    checkout: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that the branch has filed, committed or not, and no other; of another generator they are named."""
    results, old = checkout / "results", load_record(filed(checkout))
    code, output = check(checkout, "--against", "main", "--remeasure", "new")
    assert (code, output.splitlines()[-1]) == (0, "0 records filed since main to measure again")
    path = leaderboards.add(small / "record.json", results, supersedes=old.id) / "record.json"
    leaderboards.write_boards(results, checkout)
    code, output = check(checkout, "--against", "main", "--remeasure", "new")
    assert (code, output.count("\nok ")) == (0, 3 * len(old.metrics))
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "new")

    forge_metric("FD (digits-pca20)", per_seed={"11": 1.0, "12": 2.0, "13": 3.0})(path)
    forged = path.parent.rename(results / leaderboards.record_place(load_record(path))) / "record.json"
    leaderboards.write_boards(results, checkout)
    assert check(checkout, "--against", "main")[0] == 0
    code, output = check(checkout, "--against", "main", "--remeasure", "new")
    assert code == 1
    assert output.count("\nOFF FD (digits-pca20)") == output.count("\nOFF ") == 3
    assert f"record {old.id[:10]}" not in output
    assert check(checkout, "--against", "main", "--remeasure", "new", "--seed", "12")[1].count("\nOFF ") == 1

    monkeypatch.setattr("minoritybench.remeasure.SHIPPED_GENERATORS", frozenset())
    code, output = check(checkout, "--against", "main", "--remeasure", "new")
    assert code == 0
    assert f"{forged}: not measured again" in output


def test_what_is_new_has_to_be_said(boards: Path) -> None:
    arguments = ["leaderboard", "check", "--results", str(boards / "results"), "--out", str(boards)]
    code, output = run(*arguments, "--remeasure", "new")
    assert code == 2
    assert "--remeasure new: say with --against" in output


def test_words_of_remeasure_are_no_methods() -> None:
    assert not {"new", "all"} & set(entries("methods"))


def test_an_empty_board_has_nothing_to_measure(boards: Path) -> None:
    code, output = check(boards, "--remeasure", "all", "--benchmark", "celeba64")
    assert code == 0
    assert "0 rows on the board of celeba64" in output


def test_several_boards_are_measured_in_one_go(boards: Path) -> None:
    code, output = check(
        boards, "--remeasure", "all", "--seed", "12", "--benchmark", "celeba64", "--benchmark", "digits"
    )
    assert code == 0
    assert "0 rows on the board of celeba64 to measure again\n1 rows on the board of digits" in output
    assert output.count("\nok ") == len(load_record(filed(boards)).metrics)


def test_shown_are_the_rows_of_the_board() -> None:
    records = leaderboards.shown_records(load_benchmark("digits"), SHIPPED)
    page = (SHIPPED.parent / "digits.md").read_text("utf-8")
    assert len(records) == len(re.findall(r"` (self|ci|maintainer) \|\n", page))
    assert all(f"`{record.id[:10]}` " in page for record in records)


def test_everything_that_a_row_is_told_apart_by_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of every shipped row: method, all hyperparameters, labels and guide."""
    calls: list[dict[str, object]] = []
    monkeypatch.setattr(
        "minoritybench.remeasure.evaluate", lambda name, **options: calls.append({"name": name, **options})
    )
    records: list[RunRecord] = leaderboards.shown_records(load_benchmark("digits"), SHIPPED)
    for record in records:
        measure_again(record, [11], tmp_path)
    for record, call in zip(records, calls, strict=True):
        assert call["name"] == record.method.name
        assert call["settings"] == {**record.method.params, "preset": record.method.preset}
        assert (call["guide"], call["class_conditional"]) == (record.encoder.guide, record.sampling.class_conditional)
        assert (call["n"], call["seeds"], call["generator"]) == (1000, (11,), "digits-ddpm")


def test_drift_allows_the_recorded_tolerance_and_no_more(small: Path) -> None:
    record = load_record(small / "record.json")
    seed = record.sampling.seeds[0]

    def off(factor: float, shift: float) -> list[str]:
        metrics = [
            m.model_copy(update={"per_seed": {k: v * factor + shift for k, v in m.per_seed.items()}})
            for m in record.metrics
        ]
        again = record.model_copy(update={"metrics": metrics[1:]})
        return [drift.metric for drift in drifts(record, again, seed) if not drift.fits]

    gone = record.metrics[0].name
    assert off(1.0, 0.009) == [gone]
    relative = ("FD (digits-pca20)", "AvgkNN", "AuthPct", "rarity")
    assert off(1.0, 0.011) == [gone, *(m.name for m in record.metrics[1:] if m.name not in relative)]
    assert "FD (digits-pca20)" in off(1.03, 0.0)
    assert "FD (digits-pca20)" not in off(1.01, 0.0)
    assert "AuthPct" in off(1.0, 1.01)
    assert "AuthPct" not in off(1.0, 0.99)


def test_every_kind_of_metric_has_its_own_tolerance() -> None:
    """`Tolerance` says which; 2 % of a CLIPScore would be more than a whole column of a board spans."""
    kinds: dict[str, str] = {}
    for board in ("digits", "digits-t2i"):
        record = leaderboards.shown_records(load_benchmark(board), SHIPPED)[0]
        tolerance = record.tolerance.model_copy(update={"fd_relative": 1e3, "score_nats": 1.0, "fraction": 1e-3})
        record = record.model_copy(update={"tolerance": tolerance})
        for drift in drifts(record, record, record.sampling.seeds[0]):
            relative = {1e3 * abs(drift.recorded): "relative"}
            kinds[drift.metric] = {1.0: "own unit", 1e-3: "fraction", 0.1: "percentage", **relative}[drift.allowed]
    scores = {name for name in kinds if name.startswith("JEPA-SCORE")} | {"CLIPScore"}
    assert len(scores) == 7
    fractions = {"precision", "recall", "density", "coverage", "rarity valid share", "minority share"}
    for name, kind in kinds.items():
        others = "percentage" if name == "AuthPct" else "fraction" if name in fractions else "relative"
        assert kind == ("own unit" if name in scores else others), name
    assert {"AvgkNN", "rarity", "FD (digits-pca20)", "FD (digits16-classifier)", "AuthPct"} <= set(kinds)
