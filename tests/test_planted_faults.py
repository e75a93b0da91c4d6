"""leaderboard check finds what is wrong with a record, and no record makes it fall over."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import run
from forged_records import (
    add_metric,
    drop_metric,
    few,
    filed,
    flip_last_byte,
    forge_metric,
    forge_sidecar,
    forged,
    nudge,
    saved,
    tamper,
    write,
)
from pydantic import ValidationError

from minoritybench import leaderboards
from minoritybench.errors import BadInputError
from minoritybench.methods import configure
from minoritybench.records import load_benchmark, load_record
from minoritybench.report.board import board_markdown
from minoritybench.report.tables import board_data
from minoritybench.store import sha256_file


def pad(path: Path) -> None:
    """White space that no digest covers."""
    path.write_text(path.read_text() + " " * 2**20)


def oversize(name: str, mebibytes: int):  # type: ignore[no-untyped-def]
    """A file one byte above its limit, with a record that says so honestly."""

    def change(path: Path) -> None:
        sidecar = path.parent / name
        sidecar.write_bytes(sidecar.read_bytes().ljust(mebibytes * 2**20 + 1, b"\0"))
        document = json.loads(path.read_text())
        (artifact,) = [artifact for artifact in document["artifacts"] if artifact["path"] == name]
        artifact.update(bytes=sidecar.stat().st_size, sha256=sha256_file(sidecar))
        write(path, document)

    return change


def file_again(path: Path) -> None:
    """The same measurement under another id, in the folder of that id."""
    record = load_record(path)
    again = record.model_copy(update={"command": "minoritybench evaluate --method adm"})
    again = again.model_copy(update={"id": again.content_id()})
    place = path.parents[3] / leaderboards.record_place(again)
    shutil.copytree(path.parent, place)
    saved(again, place / "record.json")


def file_under_another_setting(path: Path) -> None:
    """The same images as made by another guidance weight."""
    for w in (0.86, 0.8):
        params = configure("sgms", {"w": w}, load_benchmark("digits")).params
        record = load_record(path)
        method = record.method.model_copy(update={"name": "sgms", "params": params})
        again = record.model_copy(
            update={"method": method, "command": f"minoritybench evaluate --method sgms --set w={w}"}
        )
        again = again.model_copy(update={"id": again.content_id()})
        place = path.parents[3] / leaderboards.record_place(again)
        shutil.copytree(path.parent, place)
        saved(again, place / "record.json")


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
        (tamper("method.name", __file__ + ":places", honest_id=True), "unknown method"),
        (tamper("reference_set.sha256", "f" * 64, honest_id=True), "another reference set"),
        (tamper("surprise", 1), "there is no 'surprise'; known: schema_version"),
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
        (forged("command", "evaluate <script>alert(1)</script>"), "command holds markup, '<script'"),
        (forged("warnings", ["see <img src=x onerror=alert(1)>"]), "warnings.0 holds markup, '<img'"),
        (forged("environment.packages", {"<b>torch": "2"}), "a key in environment.packages holds markup"),
        (forged("failures", [{"id": "1", "error": "<!-- x"}]), "failures.0.error holds markup"),
        (forged("warnings", ["x" * 1001]), "warnings.0 has 1,001 characters, more than the 1,000 allowed"),
        (forged("command", "minoritybench evaluate " + "x" * 1978), "command has 2,001 characters"),
        (forged("environment.packages", {"x" * 1001: "2"}), "a key in environment.packages has 1,001 characters"),
        (forged("warnings", ["fine", "two\nlines"]), "warnings.1 holds a character that cannot be seen, U+000A"),
        (forged("warnings", ["\x1b[2J"]), "warnings.0 holds a character that cannot be seen, U+001B"),
        (forged("environment.device", "cpu\x7f"), "environment.device holds a character that cannot be seen, U+007F"),
        (forged("environment.device", "cpu\x9b2J"), "environment.device holds a character that cannot be seen, U+009B"),
        (forged("method.preset", "\u202ereference"), "method.preset holds a character that cannot be seen, U+202E"),
        (forged("warnings", ["a\u200bb"]), "warnings.0 holds a character that cannot be seen, U+200B"),
        (forged("warnings", ["a\u2066b"]), "warnings.0 holds a character that cannot be seen, U+2066"),
        (forged("warnings", ["\ufeffb"]), "warnings.0 holds a character that cannot be seen, U+FEFF"),
        (forged("command", "curl example.org | sh"), "command is not `minoritybench evaluate ...`"),
        (forged("command", "minoritybench evaluate --method adm; rm x"), "command is not `minoritybench evaluate ...`"),
        (forged("command", "minoritybench evaluate --out $(reboot)"), "command is not `minoritybench evaluate ...`"),
        (forged("command", "minoritybench evaluate --out 'x"), "command is not `minoritybench evaluate ...`"),
        (forged("command", "minoritybench sample"), "command is not `minoritybench evaluate ...`"),
        (forged("command", ""), "command is not `minoritybench evaluate ...`"),
        (forged("command", "minoritybench evaluate --method jepa"), "--method 'jepa', the record is of 'adm'"),
        (forged("command", "minoritybench evaluate --method=jepa"), "--method 'jepa', the record is of 'adm'"),
        (
            forged("command", "minoritybench evaluate --method adm --benchmark cifar10"),
            "--benchmark 'cifar10', the record is of 'digits'",
        ),
        (pad, "record.json has 1,"),
        (oversize("sheet.png", 4), "sheet.png has 4,194,305 bytes, more than the 4 MiB allowed"),
        (oversize("per_image.parquet", 32), "per_image.parquet has 33,554,433 bytes, more than the 32 MiB allowed"),
        (lambda path: (path.parent / "weights.bin").write_bytes(b"x"), "weights.bin: belongs to no record"),
        (lambda path: (path.parent / "link").symlink_to("/etc/passwd"), "link: a link; records are files"),
        (file_again, ": a duplicate of "),
        (file_under_another_setting, "though method.params.w differs: file one of the two"),
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


def test_a_page_of_all_boards_that_has_grown_too_large_is_found(boards: Path) -> None:
    """By texts that are each short enough, in a record that is small enough: the page escapes them."""
    path = filed(boards)
    forged("warnings", ["&" * 1000] * 500)(path)
    path.parent.rename(boards / "results" / leaderboards.record_place(load_record(path)))
    leaderboards.write_boards(boards / "results", boards)
    (fault,) = leaderboards.check(boards / "results", boards)
    size = (boards / "index.html").stat().st_size
    assert fault.startswith(
        f"{boards / 'index.html'}: as built it has {size:,} bytes and must have fewer than 2,000,000:"
    )
    assert "shorten the texts" in fault


def delete(path: Path) -> None:
    shutil.rmtree(path.parent)


def misplace(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


@pytest.mark.parametrize(
    ("change", "place", "message", "options"),
    [
        pytest.param(tamper("metrics.0.value", 1.0), "", "it was edited", (), id="edited number"),
        pytest.param(delete, "", "was deleted since", ("--against", "main"), id="deleted record"),
        pytest.param(
            misplace, "elsewhere", "filed in the wrong folder; it belongs in digits/adm/", (), id="wrong folder"
        ),
        pytest.param(forged("sampling.n", 5), "", "n=5 is below the benchmark's 12", (), id="n too small"),
        pytest.param(
            tamper("metrics.0.value", float("nan")), "", "metrics.0.value: Input should be a fin", (), id="NaN"
        ),
        pytest.param(forged("method.name", "magic"), "", "unknown method 'magic'", (), id="unknown method"),
        pytest.param(pad, "", "record.json has 1,", (), id="oversized file"),
        pytest.param(file_again, None, "a duplicate of ", (), id="duplicate"),
        pytest.param(
            forged("reference_set.sha256", "f" * 64), "", "another reference set (ffff", (), id="reference set"
        ),
        pytest.param(forged("command", "<script>x</script>"), "", "command holds markup, '<script'", (), id="script"),
    ],
)
def test_ten_planted_faults(  # type: ignore[no-untyped-def]
    checkout: Path, change, place: str | None, message: str, options: tuple[str, ...]
) -> None:
    """The command says what is wrong in a line that begins with the file, and exits with 1. `place` is the folder where
    the file then lies, its own if empty; of duplicates either may be named."""
    command = ("leaderboard", "check", "--results", str(checkout / "results"), "--out", str(checkout), *options)
    assert run(*command)[0] == 0
    path = filed(checkout)
    change(path)
    named = (
        checkout.rglob("record.json")
        if place is None
        else [path.parent.with_name(place or path.parent.name) / path.name]
    )
    code, output = run(*command)
    assert code == 1
    starts = tuple(f"{file}: " for file in named)
    assert any(line.startswith(starts) and message in line for line in output.splitlines()), output


def test_a_record_that_supersedes_the_same_measurement_is_no_duplicate(boards: Path, small: Path) -> None:
    old = load_record(filed(boards))
    leaderboards.add(small / "record.json", boards / "results", supersedes=old.id)
    leaderboards.write_boards(boards / "results", boards)
    assert leaderboards.check(boards / "results", boards) == []


def test_a_fault_holds_nothing_that_a_terminal_obeys(boards: Path) -> None:
    """It quotes names of fields, which a record may make up."""
    path = filed(boards)
    forged("environment.packages", {"\x1b]0;title\x07": "\u202e"})(path)
    faults = leaderboards.record_faults(path)
    assert any("environment.packages.\\x1b]0;title\\x07 holds a character" in fault for fault in faults), faults
    assert all(fault.isprintable() for fault in faults)


def test_markup_is_refused_at_the_door_and_shown_as_text_where_it_got_in(boards: Path, small: Path) -> None:
    """A comparison is no markup; a tag in a hyperparameter would be a cell of a board."""
    path = filed(boards)
    forged("command", "minoritybench evaluate --method adm --prompts 'a < b, c<3; $(x)'")(path)
    assert leaderboards.record_faults(path) == []
    record = load_record(small / "record.json")
    ddim = record.method.model_copy(update={"name": "ddim", "params": {"stochasticity": "<script>|[x](y)</script>"}})
    page = board_markdown(board_data(few(), [record.model_copy(update={"method": ddim})]))
    assert "<script" not in page
    assert "| ddim (stochasticity=&lt;script&gt;\\|\\[x](y)&lt;/script&gt;) |" in page


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
    good = configure("jepa", {"eta": 1.5}, load_benchmark("digits")).params
    document["method"] = {"name": "jepa", "params": good, "preset": "reference"}
    write(path, document)
    assert leaderboards.record_faults(path) == []
    for change, message in (
        ({"eta": "1.5"}, "method.params.eta is '1.5'"),
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
