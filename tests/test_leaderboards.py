"""Leaderboards: filing, checking planted faults, byte-identical boards."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

import minoritybench
from minoritybench import leaderboards, record_checks
from minoritybench.errors import BadInputError
from minoritybench.metrics import t_interval
from minoritybench.records import RunRecord, load_benchmark, load_record, metric_id
from minoritybench.report.board import board_markdown
from minoritybench.store import pretty_json, sha256_file


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


def ask_for_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the n of the digits benchmark to what `small` drew."""
    spec = load_benchmark("digits").model_copy(update={"n": 12})
    for module in (leaderboards, record_checks):
        monkeypatch.setattr(module, "load_benchmark", lambda name: spec if name == spec.name else load_benchmark(name))


@pytest.fixture(scope="module")
def built(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A leaderboards folder with one filed record and its boards built, beside a README with markers."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "README.md").write_text("# Title\n\n<!-- board:digits -->\n<!-- /board:digits -->\nend\n")
    with pytest.MonkeyPatch.context() as monkeypatch:
        ask_for_few(monkeypatch)
        leaderboards.add(small / "record.json", folder / "leaderboards" / "results")
        leaderboards.write_boards(folder / "leaderboards" / "results", folder / "leaderboards")
    return folder


@pytest.fixture
def boards(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `built` to spoil."""
    ask_for_few(monkeypatch)
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    return tmp_path / "leaderboards"


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


def tamper(field: str, value: object, *, honest_id: bool = False):  # type: ignore[no-untyped-def]
    def change(path: Path) -> None:
        document = json.loads(path.read_text())
        *parents, last = field.split(".")
        node = document
        for part in parents:
            node = node[int(part)] if part.isdecimal() else node[part]
        node[last] = value
        write(path, document, honest_id=honest_id)

    return change


def write(path: Path, document: dict[str, Any], *, honest_id: bool = True) -> None:
    if honest_id:
        document["id"] = RunRecord.model_validate(document).content_id()
    path.write_text(json.dumps(document))


def forged(field: str, value: object):  # type: ignore[no-untyped-def]
    return tamper(field, value, honest_id=True)


def forge_metric(name: str, **changes: Any):  # type: ignore[no-untyped-def]
    """Change fields of a metric; a changed `params` gets a matching id, changed `per_seed` values a matching mean."""

    def change(path: Path) -> None:
        document = json.loads(path.read_text())
        metric = next(metric for metric in document["metrics"] if metric["name"] == name)
        metric.update(changes)
        if "params" in changes and "id" not in changes:
            metric["id"] = metric_id(name, metric["params"])
        if "per_seed" in changes:
            metric["value"], metric["ci_low"], metric["ci_high"] = t_interval(list(metric["per_seed"].values()))
        write(path, document)

    return change


def forge_sidecar(edit: Callable[[pd.DataFrame], pd.DataFrame]):  # type: ignore[no-untyped-def]
    """Change the per-image table and give the record its new digest."""

    def change(path: Path) -> None:
        sidecar = path.parent / "per_image.parquet"
        edit(pd.read_parquet(sidecar)).to_parquet(sidecar, index=False)
        document = json.loads(path.read_text())
        listed = next(item for item in document["artifacts"] if item["path"] == sidecar.name)
        listed.update(sha256=sha256_file(sidecar), bytes=sidecar.stat().st_size)
        write(path, document)

    return change


def flip_last_byte(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def drop_metric(name: str):  # type: ignore[no-untyped-def]
    def change(path: Path) -> None:
        document = json.loads(path.read_text())
        document["metrics"] = [metric for metric in document["metrics"] if metric["name"] != name]
        write(path, document)

    return change


def add_metric(path: Path) -> None:
    document = json.loads(path.read_text())
    document["metrics"].append({**document["metrics"][0], "name": "charm"})
    write(path, document)


def nudge(name: str, by: float = 1.0):  # type: ignore[no-untyped-def]
    def edit(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(**{name: table[name] + by})

    return edit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (tamper("metrics.0.value", 1.0), "it was edited"),
        (tamper("metrics.0.value", 1.0, honest_id=True), "not the mean of its seeds"),
        (tamper("minoritybench.dirty", True, honest_id=True), "dirty tree"),
        (tamper("minoritybench.commit", None, honest_id=True), "dirty tree"),
        (tamper("status", "incomplete", honest_id=True), "status is 'incomplete'"),
        (tamper("sampling.n", 5, honest_id=True), "n=5 is below"),
        (tamper("sampling.seeds", [0, 1], honest_id=True), "are not the benchmark's"),
        (tamper("method.name", "magic", honest_id=True), "unknown method 'magic'"),
        (tamper("method.name", __file__ + ":small", honest_id=True), "unknown method"),
        (tamper("reference_set.sha256", "f" * 64, honest_id=True), "another reference set"),
        (tamper("surprise", 1), "surprise: Extra inputs"),
        (lambda path: path.write_text(path.read_text().replace('"value":', '"value": NaN, "x":', 1)), "metrics"),
        (lambda path: path.write_text("{"), "not readable JSON"),
        (lambda path: (path.parent / "sheet.png").unlink(), "sheet.png is missing"),
        (lambda path: (path.parent / "sheet.png").write_bytes(b""), "sheet.png has 0 bytes, the record says"),
        (lambda path: flip_last_byte(path.parent / "sheet.png"), "differs from its digest"),
        (lambda path: shutil.copytree(path.parent, path.parent.parent / "copy"), "wrong folder"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "not readable JSON"),
        (lambda path: path.write_text("[" * 100_000), "not readable JSON"),
        (lambda path: path.write_text(path.read_text().replace('"k": 5', '"k": 1e999')), "metrics.2.params"),
        (forged("created", "yesterday"), "not an ISO 8601 time"),
        (forged("minoritybench.commit", "abc"), "not a git commit"),
        (forged("sampling.steps", 500), "sampling.steps is 500, the benchmark's are 50"),
        (forged("sampling.spacing", "ddim50"), "sampling.spacing is 'ddim50', that of adm is '50'"),
        (forged("sampling.class_conditional", True), "contradict each other"),
        (forged("sampling.seeds", []), "are not the benchmark's"),
        (forged("sampling.seeds", [11, 12, 13, 13]), "are not the benchmark's"),
        (tamper("sampling.seeds", [11, 12, 13, -1]), "sampling.seeds.3: Input should be greater than or equal to 0"),
        (forged("sampling.n", 2**62), "does not list every sample"),
        (tamper("sampling.n", 10**400), "sampling.n: Input should be less"),
        (forged("generator.name", "better-ddpm"), "generator 'better-ddpm' is not the benchmark's"),
        (forged("generator.weights_sha256", "f" * 64), "generator weights ffffffffffff are not the shipped"),
        (forged("generator.dtype", "float64"), "generator dtype is 'float64'"),
        (forged("reference_set.n", 3), "reference_set is 'digits' with n=3"),
        (forged("tolerance.fd_relative", 0.5), "tolerance"),
        (forged("encoder.guide", "magic"), "encoder.weights_sha256 lacks magic"),
        (forged("encoder.weights_sha256.timm:a | 9 |", None), "holds other characters"),
        (forged("encoder.judges", ["digits-ijepa"]), "encoder.judges lacks digits-jepa-b"),
        (forged("encoder.weights_sha256.digits-jepa", "0" * 64), "of digits-jepa are not the shipped"),
        (tamper("encoder", {}), "encoder.guide: Field required"),
        (forged("cost.seconds_per_sample", 1e-9), "cost.seconds_per_sample"),
        (forged("cost.nfe", 1), "cost.nfe"),
        (forged("method.params", {"eta": 2.0}), "no such hyperparameter"),
        (forged("method.preset", "golden"), "no preset 'golden'"),
        (tamper("method.params", {"eta": float("nan")}), "method.params"),
        (forged("artifacts", []), "artifacts are none"),
        (forged("artifacts.0.path", "../../secret"), "artifacts are '../../secret'"),
        (forged("artifacts.0.bytes", 1), "the record says 1"),
        (forge_metric("recall", id="0" * 16), "not the digest of its name and params"),
        (forge_metric("recall", direction="lower"), "'recall' has direction 'lower'"),
        (forge_metric("FD (digits-pca20)", ci_low=0.0), "not the 95 % t-interval"),
        (forge_metric("FD (digits-pca20)", ci_high=None), "not the 95 % t-interval"),
        (forge_metric("recall", params={"k": 5}), "'recall' lacks params.features"),
        (forge_metric("precision", per_seed={"11": 1.5, "12": 1.5, "13": 1.5}), "outside its range, 0 to 1"),
        (forge_metric("density", per_seed={"11": -1.0, "12": 0.0, "13": 0.0}), "outside its range, 0 to inf"),
        (forge_metric("FD (digits-pca20)", per_seed={"11": -1.0, "12": -2.0, "13": -1.0}), "outside its range"),
        (forge_metric("JEPA-SCORE", per_seed={"11": -90.0, "12": -91.0, "13": -92.0}), "per_image.parquet gives"),
        (forge_metric("minority share", per_seed={"11": 1.0, "12": 0.9, "13": 0.8}), "per_image.parquet gives"),
        (drop_metric("recall"), "metric 'recall' is missing"),
        (add_metric, "metric 'charm' is none of the benchmark's"),
        (forge_sidecar(nudge("score/digits-jepa/reference")), "metric 'JEPA-SCORE' of seed 11 is"),
        (forge_sidecar(nudge("score/digits-jepa/deflated", -9.0)), "metric 'minority share' of seed 11 is"),
        (forge_sidecar(nudge("score/digits-ijepa/reference", float("nan"))), "must be finite float64"),
        (forge_sidecar(lambda table: table.iloc[1:]), "does not list every sample"),
        (forge_sidecar(lambda table: table.drop(columns="score/digits-jepa-b/reference")), "other columns"),
        (forge_sidecar(lambda table: table.assign(**{"score/digits-ijepa/deflated": "x"})), "must be finite float64"),
    ],
)
def test_planted_faults_are_found(boards: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    change(filed(boards))
    faults = leaderboards.check(boards / "results", boards)
    assert any(message in fault for fault in faults), faults


def test_numbers_that_come_from_elsewhere_are_named_with_their_params(boards: Path) -> None:
    """A metric measured with k = 3, on a larger sample or in other features is another metric, whatever its id says."""
    path = filed(boards)
    recall = load_record(path).metric("recall")
    assert recall is not None
    for key, value in {"k": 3, "n_fake": 50_000, "features": "digits-pca20", "extra": 1}.items():
        forge_metric("recall", params={**recall.params, key: value})(path)
        assert any("metric 'recall' has" in f and f"params.{key}" in f for f in leaderboards.record_faults(path)), key


def test_method_params_are_those_of_the_registered_method(boards: Path) -> None:
    path = filed(boards)
    document = json.loads(path.read_text())
    good = {"eta": 1.0, "tau": 0.8, "interval": 3, "k": 3, "p": 2, "q": 2}
    good |= {"normalise": "max", "schedule": "variance", "clamp_x0": False}
    document["method"] = {"name": "jepa", "params": good, "preset": "reference"}
    write(path, document)
    assert leaderboards.record_faults(path) == []
    for change, message in (
        ({"eta": "1.0"}, "method.params.eta is '1.0'"),
        ({"eta": 1}, "method.params.eta is 1, which jepa would write as 1.0"),
        ({"clamp_x0": 0}, "method.params.clamp_x0 is 0"),
        ({"interval": 0}, "interval be at least 1"),
        ({"normalise": "min"}, "normalise=min"),
        ({"k": None}, "k=None"),
        ({"preset": "paper"}, "method.params has 'preset', which jepa has not"),
    ):
        document["method"]["params"] = {**good, **change}
        write(path, document)
        faults = leaderboards.record_faults(path)
        assert any(message in fault for fault in faults), (change, faults)
    del good["tau"]
    document["method"]["params"] = good
    write(path, document)
    assert any("method.params lacks 'tau'" in fault for fault in leaderboards.record_faults(path))


def test_a_method_file_that_a_record_names_is_never_run(boards: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nclass Trap: pass\n")
    forged("method.name", f"{trap}:Trap")(filed(boards))
    assert any("unknown method" in fault for fault in leaderboards.check(boards / "results", boards))
    with pytest.raises(BadInputError, match="unknown method"):
        leaderboards.build(boards / "results", boards)
    assert not (tmp_path / "sprung").exists()


ODD = (None, True, -1, 0, 2.5, 1e308, 10**400, "", "x", "../../x", "a\nb", [], {}, [[]], {"a": [None]}, float("nan"))
KEPT_METRICS = (0, 10)  # one that needs features and one of the per-image scores stand for the others


def places(node: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of every field and item of a JSON document."""
    for key, inner in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if prefix != ("metrics",) or key in KEPT_METRICS:
            yield (*prefix, key)
            yield from places(inner, (*prefix, key))


def with_change(
    document: dict[str, Any], place: tuple[Any, ...], value: Any = None, *, drop: bool = False
) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    node = changed
    for key in place[:-1]:
        node = node[key]
    if drop:
        del node[place[-1]]
    else:
        node[place[-1]] = value
    return changed


@pytest.mark.slow
def test_no_malformed_record_raises_or_passes(boards: Path) -> None:
    """Every field of a valid record dropped or replaced by odd values in turn: with the old id that is a fault, and
    with a matching one, where the record still loads, at least no crash."""
    path = filed(boards)
    document = json.loads(path.read_text())
    spots = [place for place in places(document) if place != ("id",)]
    assert len(spots) > 100
    for number, place in enumerate(spots):
        odd = [ODD[(3 * number + step) % len(ODD)] for step in range(3)]
        variants = [with_change(document, place, drop=True), *(with_change(document, place, value) for value in odd)]
        for variant in variants:
            if variant == document:
                continue
            path.write_text(json.dumps(variant))
            faults = leaderboards.record_faults(path, boards / "results")
            assert faults, (place, variant)
            assert all(len(fault.splitlines()) == 1 for fault in faults)
            with contextlib.suppress(ValidationError):
                write(path, variant)
                honest = leaderboards.record_faults(path, boards / "results")
                assert all(len(fault.splitlines()) == 1 for fault in honest)


@pytest.mark.parametrize("text", ["", "null", "3", "[]", "{}", '{"id": 1}', '"\\ud800"', "1" * 5000, "NaN"])
def test_a_file_that_is_no_record_is_a_fault(boards: Path, text: str) -> None:
    filed(boards).write_text(text)
    assert len(leaderboards.check(boards / "results", boards)) == 1


def test_lone_surrogates_in_free_fields_are_a_fault(boards: Path) -> None:
    path = filed(boards)
    path.write_text(path.read_text().replace('"params": {}', '"params": {"a": "\\ud800"}'))
    (fault,) = leaderboards.check(boards / "results", boards)
    assert "not readable JSON" in fault


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


def test_superseding_hides_the_older_row_and_only_of_the_same_method(boards: Path, small: Path, tmp_path: Path) -> None:
    run, older = tmp_path / "again", load_record(small / "record.json")
    shutil.copytree(small, run)
    older_day = {"created": "2001-01-01T00:00:00+00:00", "command": "again"}  # not the newest: it wins by superseding
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
    saved(older.model_copy(update={"command": "lost", "supersedes": "f" * 64}), run / "record.json")
    with pytest.raises(BadInputError, match="not among the results"):
        leaderboards.add(run / "record.json", boards / "results")


def test_shipped_records_are_read_back_to_the_same_json() -> None:
    paths = leaderboards.find_records(Path(__file__).parents[1] / "leaderboards" / "results")
    assert len(paths) >= 10
    for path in paths:
        assert pretty_json(load_record(path).model_dump(mode="json")) == path.read_text()
        assert leaderboards.record_faults(path) == []


def test_declared_record_is_the_one_at_the_benchmarks_settings(tmp_path: Path) -> None:
    """Of several records of a method it takes the one whose params the benchmark declares, not the newest."""
    results = Path(__file__).parents[1] / "leaderboards" / "results"
    benchmark = load_benchmark("digits")
    record = leaderboards.declared_record(benchmark, "jepa", results)
    assert (record.method.params["eta"], record.encoder.guide) == (1.0, "digits-jepa")
    for path in leaderboards.find_records(results):
        other = load_record(path)
        if other.method.name == "jepa" and other.id != record.id:
            shutil.copytree(path.parent, tmp_path / path.parent.name)
    with pytest.raises(BadInputError, match="no record of 'jepa' at its declared settings"):
        leaderboards.declared_record(benchmark, "jepa", tmp_path)


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
