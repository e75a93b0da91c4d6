"""Leaderboards: filing, checking planted faults, byte-identical boards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import minoritybench
from minoritybench import leaderboards
from minoritybench.errors import BadInputError
from minoritybench.records import RunRecord, load_benchmark, load_record
from minoritybench.report.board import board_markdown
from minoritybench.store import pretty_json


def saved(record: RunRecord, path: Path) -> Path:
    """Write a record with a matching id."""
    record = record.model_copy(update={"id": record.content_id()})
    path.write_text(pretty_json(record.model_dump(mode="json")))
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that claims a clean commit, for a benchmark that asks for few samples."""
    out = tmp_path_factory.mktemp("small") / "run"
    record = minoritybench.evaluate("adm", n=12, out=out)
    clean = record.minoritybench.model_copy(update={"commit": "0" * 40, "dirty": False})
    saved(record.model_copy(update={"minoritybench": clean}), out / "record.json")
    return out


@pytest.fixture
def boards(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A leaderboards folder with one filed record and its boards built, n lowered to what `small` drew."""
    spec = load_benchmark("digits").model_copy(update={"n": 12})
    monkeypatch.setattr(leaderboards, "load_benchmark", lambda name: spec)
    folder = tmp_path / "leaderboards"
    (tmp_path / "README.md").write_text("# Title\n\n<!-- board:digits -->\n<!-- /board:digits -->\nend\n")
    leaderboards.add(small / "record.json", folder / "results")
    leaderboards.write_boards(folder / "results", folder)
    return folder


def filed(boards: Path) -> Path:
    return next((boards / "results").rglob("record.json"))


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
    assert fault.startswith(f"{path}:{row + 1}:")


def tamper(field: str, value: object, *, honest_id: bool = False):  # type: ignore[no-untyped-def]
    def change(path: Path) -> None:
        document = json.loads(path.read_text())
        *parents, last = field.split(".")
        node = document
        for part in parents:
            node = node[int(part)] if part.isdecimal() else node[part]
        node[last] = value
        if honest_id:
            document["id"] = RunRecord.model_validate(document).content_id()
        path.write_text(json.dumps(document))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (tamper("metrics.0.value", 1.0), "it was edited"),
        (tamper("metrics.0.value", 1.0, honest_id=True), "not the mean of its seeds"),
        (tamper("minoritybench.dirty", True, honest_id=True), "dirty tree"),
        (tamper("minoritybench.commit", None, honest_id=True), "dirty tree"),
        (tamper("status", "incomplete", honest_id=True), "status is 'incomplete'"),
        (tamper("sampling.n", 5, honest_id=True), "n=5 is below"),
        (tamper("sampling.seeds", [0, 1], honest_id=True), "lack some of the benchmark's"),
        (tamper("method.name", "magic", honest_id=True), "unknown method 'magic'"),
        (tamper("method.name", __file__ + ":small", honest_id=True), "unknown method"),
        (tamper("reference_set.sha256", "f" * 64, honest_id=True), "another reference set"),
        (tamper("surprise", 1), "surprise: Extra inputs"),
        (lambda path: path.write_text(path.read_text().replace('"value":', '"value": NaN, "x":', 1)), "metrics"),
        (lambda path: path.write_text("{"), "not readable JSON"),
        (lambda path: (path.parent / "sheet.png").unlink(), "sheet.png is missing"),
        (lambda path: (path.parent / "sheet.png").write_bytes(b""), "differs from its digest"),
        (lambda path: shutil.copytree(path.parent, path.parent.parent / "copy"), "wrong folder"),
    ],
)
def test_planted_faults_are_found(boards: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    change(filed(boards))
    faults = leaderboards.check(boards / "results", boards)
    assert any(message in fault for fault in faults), faults


def test_adding_twice_or_a_faulty_record_is_refused(boards: Path, small: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="filed before"):
        leaderboards.add(small / "record.json", boards / "results")
    broken = tmp_path / "broken"
    shutil.copytree(small, broken)
    tamper("metrics.0.value", 3.0)(broken / "record.json")
    with pytest.raises(BadInputError, match="edited"):
        leaderboards.add(broken / "record.json", boards / "results")
    assert len(list((boards / "results").rglob("record.json"))) == 1


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
    text = board_markdown(load_benchmark("digits"), records)
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
    text = board_markdown(load_benchmark("digits"), [base, newer])
    assert newer.id[:10] in text
    assert base.id[:10] not in text


def test_drift_allows_the_recorded_tolerance_and_no_more(small: Path) -> None:
    record = load_record(small / "record.json")
    seed = record.sampling.seeds[0]

    def off(factor: float, shift: float) -> list[str]:
        metrics = [
            m.model_copy(update={"per_seed": {k: v * factor + shift for k, v in m.per_seed.items()}})
            for m in record.metrics
        ]
        again = record.model_copy(update={"metrics": metrics[1:]})
        return [
            name
            for name, before, now, limit in leaderboards.drift(record, again, seed)
            if not abs(now - before) <= limit
        ]

    gone = record.metrics[0].name
    assert off(1.0, 0.009) == [gone]
    assert off(1.0, 0.011) == [gone, *(m.name for m in record.metrics[1:] if not m.name.startswith("FD"))]
    assert "FD (digits-pca20)" in off(1.03, 0.0)
    assert "FD (digits-pca20)" not in off(1.01, 0.0)
