"""Leaderboards: filing, byte-identical boards, superseding."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from forged_records import ask_for_few, few, forge_sidecar, saved, tamper

from minoritybench import leaderboards
from minoritybench.cli import cli
from minoritybench.errors import BadInputError
from minoritybench.methods import configure
from minoritybench.record_files import LARGEST
from minoritybench.records import RunRecord, load_benchmark, load_record
from minoritybench.report.board import board_markdown
from minoritybench.report.tables import board_data, current, setting
from minoritybench.store import pretty_json


def test_filed_record_passes_and_a_second_build_changes_nothing(boards: Path) -> None:
    assert leaderboards.check(boards / "results", boards) == []
    before = (boards / "digits.md").read_bytes()
    assert leaderboards.write_boards(boards / "results", boards) == []
    assert (boards / "digits.md").read_bytes() == before
    assert "| adm |" in (boards.parent / "README.md").read_text()
    assert (boards.parent / "README.md").read_text().endswith("<!-- /board:digits -->\nend\n")


def test_edited_board_is_named_by_line(boards: Path) -> None:
    path = boards / "digits.md"
    lines = path.read_text().split("\n")
    row = next(i for i, line in enumerate(lines) if line.startswith("| adm"))
    lines[row] = lines[row].replace("±", "+-", 1)
    path.write_text("\n".join(lines))
    (fault,) = leaderboards.check(boards / "results", boards)
    assert fault.startswith(f"{path}:{row + 1}: cell 2 is ")
    assert fault.count("cell") == 1
    assert len(fault) < len(str(path)) + 120
    lines[row] = "| short |"
    path.write_text("\n".join(["first", *lines[:-3]]))
    first, short, *tail = leaderboards.check(boards / "results", boards)
    assert first == f"{path}:1: no record makes this: 'first'"
    assert short.startswith(f"{path}:{row + 2}: is '| short |', the records say '| adm |")
    assert len(tail) == 3
    assert all("a line is missing after this" in fault for fault in tail)


def test_of_a_file_that_differs_throughout_twenty_lines_are_told(boards: Path) -> None:
    page = boards / "index.html"
    lines = page.read_text().split("\n")
    page.write_text("\n".join(["x" if number < 21 else line for number, line in enumerate(lines)]))
    told = leaderboards.check(boards / "results", boards)
    assert [fault.split(":")[1] for fault in told[:20]] == [str(number) for number in range(1, 21)]
    rest = "1 more line not as the records say; run `minoritybench leaderboard build`"
    assert told[20:] == [f"{page}: {rest}"]
    page.write_text("x")
    (boards / "digits.md").write_text("x")
    told = leaderboards.check(boards / "results", boards)
    assert all(sum(fault.startswith(str(file)) for fault in told) == 21 for file in (page, boards / "digits.md"))
    assert f": {len(lines) - 20} more lines not" in [fault for fault in told if fault.startswith(str(page))][-1]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("benchmark", "../../escaped"),
        ("benchmark", "/etc"),
        ("benchmark", ".."),
        ("benchmark", ""),
        ("method", "../escaped"),
        ("method", "a/b"),
        ("method", "file.py:X"),
        ("method", "."),
        ("id", "../../../escaped"),
        ("id", "a\x00b"),
        ("id", "x\n"),
        ("id", ""),
    ],
)
def test_a_record_never_lands_outside_the_results(small: Path, field: str, value: str) -> None:
    record = load_record(small / "record.json")
    change = record.method.model_copy(update={"name": value}) if field == "method" else value
    with pytest.raises(BadInputError, match="cannot name a folder of results"):
        leaderboards.record_place(record.model_copy(update={field: change}))


def test_boards_are_not_built_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    for act in (leaderboards.write_boards, leaderboards.check):
        with pytest.raises(BadInputError, match=r"--results .*absent: no such folder"):
            act(tmp_path / "absent", tmp_path / "boards")
    assert list(tmp_path.iterdir()) == []


def test_a_results_folder_that_is_named_is_made(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask_for_few(monkeypatch)
    words = ["leaderboard", "add", str(small / "record.json"), "--results", str(tmp_path / "new")]
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert len(leaderboards.find_records(tmp_path / "new")) == 1


def test_the_folder_of_a_record_is_filed_like_its_file(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_for_few(monkeypatch)
    assert leaderboards.add(small, tmp_path / "a").name == leaderboards.add(small / "record.json", tmp_path / "b").name
    with pytest.raises(BadInputError, match=r"^no such file: .*/record\.json$"):
        leaderboards.add(tmp_path, tmp_path / "c")


def test_a_record_with_many_faults_is_refused_in_a_short_line(small: Path, tmp_path: Path) -> None:
    """The benchmark asks for more samples than `small` has, and every change is a fault or more."""
    path = Path(shutil.copytree(small, tmp_path / "faulty")) / "record.json"
    for field, value in (("status", "incomplete"), ("sampling.steps", 7), ("cost.nfe", 1), ("warnings", ["a\nb"])):
        tamper(field, value)(path)
    faults = leaderboards.record_faults(path)
    with pytest.raises(BadInputError) as refused:
        leaderboards.add(path, tmp_path / "results")
    said = str(refused.value)
    first = [fault.removeprefix(f"{path}: ") for fault in faults[:3]]
    assert len(faults) > 5
    assert said == f"{path}: {'; '.join(first)}; and {len(faults) - 3} more faults"
    assert said.count(str(path)) == 1


def test_place_of_a_record(small: Path) -> None:
    record = load_record(small / "record.json")
    assert leaderboards.record_place(record) == Path("digits") / "adm" / record.id[:16]


def test_adding_twice_or_a_faulty_record_is_refused(boards: Path, small: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="filed before"):
        leaderboards.add(small / "record.json", boards / "results")
    broken = tmp_path / "broken"
    shutil.copytree(small, broken)
    tamper("metrics.0.value", 3.0)(broken / "record.json")
    with pytest.raises(BadInputError, match="edited"):
        leaderboards.add(broken / "record.json", boards / "results")
    assert len(list((boards / "results").rglob("record.json"))) == 1


def test_a_record_can_take_the_place_of_a_filed_one(boards: Path, small: Path) -> None:
    (first,) = leaderboards.find_records(boards / "results")
    old = load_record(first)
    place = leaderboards.add(small / "record.json", boards / "results", supersedes=old.id[:12])
    new = load_record(place / "record.json")
    assert (new.supersedes, new.id) == (old.id, new.content_id())
    assert leaderboards.record_faults(place / "record.json", boards / "results") == []
    tamper("method.params", {"of": "an earlier version"}, honest_id=True)(first)  # what methods have lost since
    assert leaderboards.record_faults(first) != []
    assert leaderboards.record_faults(first, superseded=frozenset({load_record(first).id})) == []
    assert [record.id for record in current([old, new])] == [new.id]
    with pytest.raises(BadInputError, match=r"--supersedes 'zz' is the start of 0 filed"):
        leaderboards.add(small / "record.json", boards / "results", supersedes="zz")


def test_best_is_bold_second_underlined_and_other_settings_unranked(small: Path) -> None:
    base = load_record(small / "record.json")

    def variant(name: str, params: dict[str, object], shift: float) -> RunRecord:
        metrics = [
            m.model_copy(update={"value": m.value + shift, "ci_low": None, "ci_high": None}) for m in base.metrics
        ]
        method = base.method.model_copy(update={"name": name, "params": params})
        record = base.model_copy(update={"method": method, "metrics": metrics})
        return record.model_copy(update={"id": record.content_id()})

    records = [base, variant("ddim", {"stochasticity": 0.0}, 1.0), variant("ddim", {"stochasticity": 0.5}, -5.0)]
    text = board_markdown(board_data(few(), records))
    ranked, _, others = text.partition("### Other settings")
    row = {line.split(" |")[0]: line for line in ranked.splitlines() if line.startswith("| ")}
    assert "**" in row["| adm"].split(" | ")[1]
    assert "<u>" in row["| ddim"].split(" | ")[1]
    assert "ddim (stochasticity=0.5)" in others
    assert "**" not in others.split("- ")[0]


def test_superseded_and_older_records_are_not_shown(small: Path) -> None:
    base = load_record(small / "record.json")
    newer = base.model_copy(update={"created": "2099-01-01T00:00:00+00:00", "command": "again"})
    newer = newer.model_copy(update={"id": newer.content_id()})
    text = board_markdown(board_data(few(), [base, newer]))
    assert newer.id[:10] in text
    assert base.id[:10] not in text


def test_superseding_hides_the_older_row_and_only_of_the_same_method(boards: Path, small: Path, tmp_path: Path) -> None:
    run, older = tmp_path / "again", load_record(small / "record.json")
    shutil.copytree(small, run)
    older_day = {"created": "2001-01-01T00:00:00+00:00", "warnings": ["again"]}  # wins by superseding, not by date
    saved(older.model_copy(update={**older_day, "supersedes": older.id}), run / "record.json")
    newer = load_record(leaderboards.add(run / "record.json", boards / "results") / "record.json")
    leaderboards.write_boards(boards / "results", boards)
    assert leaderboards.check(boards / "results", boards) == []
    text = (boards / "digits.md").read_text()
    assert newer.id[:10] in text
    assert older.id[:10] not in text

    shutil.rmtree(boards / "results" / leaderboards.record_place(older))
    (fault,) = (fault for fault in leaderboards.check(boards / "results", boards) if "record.json" in fault)
    assert f"supersedes '{older.id}', which is not among the results" in fault

    ddim = older.method.model_copy(update={"name": "ddim", "params": {"stochasticity": 0.0}})
    sampling = older.sampling.model_copy(update={"spacing": "ddim50"})
    thief = older.model_copy(update={"method": ddim, "sampling": sampling, "supersedes": newer.id})
    saved(thief, run / "record.json")
    with pytest.raises(BadInputError, match="a record of adm on digits"):
        leaderboards.add(run / "record.json", boards / "results")
    saved(older.model_copy(update={"warnings": ["lost"], "supersedes": "f" * 64}), run / "record.json")
    with pytest.raises(BadInputError, match="not among the results"):
        leaderboards.add(run / "record.json", boards / "results")


def test_a_row_is_not_removed_by_a_record_of_another_setting(boards: Path, small: Path, tmp_path: Path) -> None:
    """Neither by `add` nor by hand; one that its method has outgrown may be."""
    results, base = boards / "results", load_record(small / "record.json")
    run = tmp_path / "run"
    run.mkdir()
    for file in LARGEST:
        shutil.copyfile(small / file, run / file)

    def at(w: float, supersedes: str | None = None) -> RunRecord:
        params = configure("sgms", {"w": w}, few()).params
        method = base.method.model_copy(update={"name": "sgms", "params": params})
        command = f"minoritybench evaluate --method sgms --set w={w}"
        record = base.model_copy(update={"method": method, "command": command, "supersedes": supersedes})
        forge_sidecar(lambda table: table.replace(table["sha256"].iloc[-1], f"{w:.2f}".ljust(64, "0")))(
            saved(record, run / "record.json")
        )
        return load_record(run / "record.json")

    old = at(0.86)
    place = leaderboards.add(run / "record.json", results)
    at(0.8)
    said = "a record of another setting: method.params.w differs; file it beside that one"
    with pytest.raises(BadInputError, match=said):
        leaderboards.add(run / "record.json", results, supersedes=old.id)
    wolf = at(0.8, old.id)
    shutil.copytree(run, results / leaderboards.record_place(wolf))
    (fault,) = (fault for fault in leaderboards.check(results, boards) if "another setting" in fault)
    assert fault.startswith(f"{results / leaderboards.record_place(wolf)}")

    shutil.rmtree(results / leaderboards.record_place(wolf))
    lacks = {key: value for key, value in old.method.params.items() if key != "w"}
    tamper("method.params", lacks, honest_id=True)(place / "record.json")
    outgrown = load_record(place / "record.json")
    place.rename(results / leaderboards.record_place(outgrown))
    at(0.8)
    leaderboards.add(run / "record.json", results, supersedes=outgrown.id)
    leaderboards.write_boards(results, boards)
    assert leaderboards.check(results, boards) == []


def test_shipped_records_are_read_back_to_the_same_json() -> None:
    results = Path(__file__).parents[1] / "leaderboards" / "results"
    paths = leaderboards.find_records(results)
    gone = frozenset(old for path in paths if (old := load_record(path).supersedes) is not None)
    assert len(paths) - len(gone) >= 20
    for path in paths:
        assert pretty_json(load_record(path).model_dump(mode="json")) == path.read_text()
        assert leaderboards.record_faults(path, results, gone) == []


def test_declared_record_is_the_one_at_the_benchmarks_settings(tmp_path: Path) -> None:
    """Of several records of a method it takes the one whose params the benchmark declares, not the newest."""
    results = Path(__file__).parents[1] / "leaderboards" / "results"
    benchmark = load_benchmark("digits")
    record = leaderboards.declared_record(benchmark, "jepa", results)
    assert (record.method.params["eta"], record.encoder.guide) == (1.0, "digits-jepa")
    for path in leaderboards.find_records(results):
        other = load_record(path)
        if other.method.name == "jepa" and setting(other) != setting(record):  # nor those that it supersedes
            shutil.copytree(path.parent, tmp_path / path.parent.name)
    with pytest.raises(BadInputError, match="no record of 'jepa' at its declared settings"):
        leaderboards.declared_record(benchmark, "jepa", tmp_path)


def test_board_says_what_a_perfect_generator_scores(built: Path) -> None:
    text = (built / "leaderboards" / "digits.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| *a perfect generator, expected*")]
    (head,) = [line for line in text.splitlines() if line.startswith("| method")]
    cells = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    assert cells["density ↑"] == "1.00"
    assert cells["coverage ↑"] == f"{1 - np.prod([(375 - i) / (387 - i) for i in range(1, 6)]):.2f}"
    assert cells["precision ↑"] == ""
    assert "AvgkNN: mean distance to the 5 nearest images of the whole training split" in text
