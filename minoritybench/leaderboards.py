"""Records on disk to boards on disk: find, validate, build, compare, file."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from minoritybench.errors import BadInputError, MinorityBenchError
from minoritybench.records import BenchmarkSpec, RunRecord, Tolerance, load_benchmark, load_record
from minoritybench.references import load_reference_set
from minoritybench.registry import entries, lookup
from minoritybench.report.board import board_markdown, current, tables_markdown
from minoritybench.store import canonical_json, sha256_file, write_text

RECORD_NAME = "record.json"


def find_records(results: Path) -> list[Path]:
    """All filed records, in path order."""
    return sorted(results.rglob(RECORD_NAME))


def build(results: Path, out: Path) -> dict[Path, str]:
    """What every generated file should hold: one board a benchmark, and the tables in the README beside `out`."""
    records = [load_record(path) for path in find_records(results)]
    pages: dict[Path, str] = {}
    readme = out.parent / "README.md"
    text = readme.read_text("utf-8") if readme.is_file() else ""
    for name in sorted(entries("benchmarks")):
        benchmark = load_benchmark(name)
        pages[out / f"{name}.md"] = board_markdown(benchmark, records)
        text = _between_markers(text, name, tables_markdown(benchmark, records))
    if readme.is_file():
        pages[readme] = text
    return pages


def write_boards(results: Path, out: Path) -> list[Path]:
    """Write the generated files; returns those that changed."""
    changed = []
    for path, text in build(results, out).items():
        if not path.is_file() or path.read_text("utf-8") != text:
            write_text(path, text)
            changed.append(path)
    return changed


def check(results: Path, out: Path) -> list[str]:
    """Every fault of the records and every generated line that is not what the records say; empty when all is well."""
    faults = [fault for path in find_records(results) for fault in record_faults(path, results)]
    faults += _duplicates(results)
    if faults:
        return faults  # boards of faulty records would only repeat the news
    for path, text in build(results, out).items():
        faults += _line_faults(path, text)
    return faults


def record_faults(path: Path, results: Path | None = None) -> list[str]:
    """What is wrong with one record file; `results` also checks that it lies where its content says."""
    try:
        record = load_record(path)
        faults = list(_content_faults(record))
    except MinorityBenchError as error:
        return [f"{path}: {error}"]
    faults += _artifact_faults(record, path.parent)
    if results is not None and path != results / record_place(record) / RECORD_NAME:
        faults.append(f"filed in the wrong folder; it belongs in {record_place(record)}")
    return [f"{path}: {fault}" for fault in faults]


def record_place(record: RunRecord) -> Path:
    """Folder of a record below the results folder."""
    return Path(record.benchmark) / record.method.name / record.id[:16]


def add(path: Path, results: Path) -> Path:
    """Validate a record with its sidecars and copy it to its place; refuse a faulty one or one already there."""
    faults = record_faults(path)
    if faults:
        raise BadInputError("; ".join(faults))
    record = load_record(path)
    place = results / record_place(record)
    if place.exists():
        raise BadInputError(f"{place} is there already: the record was filed before")
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=results, prefix=".adding-") as scratch:
        staged = Path(scratch) / "record"
        staged.mkdir()
        for name in (*[artifact.path for artifact in record.artifacts], path.name):
            shutil.copyfile(path.parent / name, staged / (RECORD_NAME if name == path.name else name))
        place.parent.mkdir(parents=True, exist_ok=True)
        staged.rename(place)
    return place


def _content_faults(record: RunRecord) -> Iterator[str]:
    if record.id != record.content_id():
        yield "its id is not the digest of its content: it was edited"
    if record.status != "complete":
        yield f"status is {record.status!r}"
    if record.minoritybench.commit is None or record.minoritybench.dirty is not False:
        yield "made from a dirty tree or outside a git checkout: commit first, then measure"
    benchmark = load_benchmark(record.benchmark)
    if record.method.name == "samples":
        yield "made from given samples; only runs of a registered method are ranked"
    else:
        lookup("methods", record.method.name)  # never resolve: a name may be path/to/file.py:X, and importing runs it
    if record.sampling.n < benchmark.n:
        yield f"n={record.sampling.n} is below the benchmark's {benchmark.n}"
    if not set(benchmark.seeds) <= set(record.sampling.seeds):
        yield f"seeds {record.sampling.seeds} lack some of the benchmark's {benchmark.seeds}"
    used, known = record.reference_set.sha256, load_reference_set(benchmark.reference_set).recipe.sha256
    if used != known:
        yield f"measured against another reference set ({used[:12]}) than the benchmark's ({known[:12]})"
    yield from _metric_faults(record)


def _metric_faults(record: RunRecord) -> Iterator[str]:
    names = [metric.name for metric in record.metrics]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"metric {name!r} stands twice"
    for metric in record.metrics:
        if set(metric.per_seed) != {str(seed) for seed in record.sampling.seeds}:
            yield f"metric {metric.name!r} lacks the value of a seed"
        elif not math.isclose(
            metric.value, sum(metric.per_seed.values()) / len(metric.per_seed), rel_tol=1e-9, abs_tol=1e-12
        ):
            yield f"metric {metric.name!r} is not the mean of its seeds"


def _artifact_faults(record: RunRecord, folder: Path) -> list[str]:
    faults = []
    for artifact in record.artifacts:
        path = folder / artifact.path
        if Path(artifact.path).name != artifact.path:
            faults.append(f"sidecar {artifact.path!r} must be a plain file name")
        elif not path.is_file():
            faults.append(f"sidecar {artifact.path} is missing")
        elif sha256_file(path) != artifact.sha256:
            faults.append(f"sidecar {artifact.path} differs from its digest")
    return faults


def _duplicates(results: Path) -> list[str]:
    seen: dict[str, Path] = {}
    faults = []
    for path in find_records(results):
        text = path.read_text("utf-8")
        if text in seen:
            faults.append(f"{path}: the same record as {seen[text]}")
        seen[text] = path
    return faults


def _line_faults(path: Path, expected: str) -> list[str]:
    """Every line of a generated file that differs, by number."""
    if not path.is_file():
        return [f"{path}: missing; run `minoritybench leaderboard build`"]
    found, wanted = path.read_text("utf-8").split("\n"), expected.split("\n")
    faults = [
        f"{path}:{number}: is {old!r}, the records say {new!r}"
        for number, (old, new) in enumerate(zip(found, wanted, strict=False), start=1)
        if old != new
    ]
    if len(found) != len(wanted):
        faults.append(f"{path}: {len(found)} lines, the records make {len(wanted)}")
    return faults


def _between_markers(text: str, name: str, tables: str) -> str:
    """`text` with the tables between `<!-- board:NAME -->` and `<!-- /board:NAME -->`, if it has the markers."""
    start, end = f"<!-- board:{name} -->\n", f"<!-- /board:{name} -->"
    head, opening, rest = text.partition(start)
    _, closing, tail = rest.partition(end)
    return f"{head}{start}\n{tables}\n{end}{tail}" if opening and closing else text


def declared_record(benchmark: BenchmarkSpec, method: str, results: Path) -> RunRecord:
    """The current unconditional record of a method at its declared settings."""
    from minoritybench.methods import configure

    wanted = canonical_json(configure(method, {}, benchmark).params)
    for record in current([load_record(path) for path in find_records(results)]):
        same = record.benchmark == benchmark.name and record.method.name == method
        plain = record.encoder["guide"] == benchmark.guide and not record.sampling.class_conditional
        if same and plain and canonical_json(record.method.params) == wanted:
            return record
    raise BadInputError(f"no record of {method!r} at its declared settings in {results}")


def drift(record: RunRecord, again: RunRecord, seed: int) -> list[tuple[str, float, float, float]]:
    """Metrics of one seed, recorded against measured again: `(name, recorded, measured, allowed difference)`; NaN where
    the metric is gone."""
    now = {metric.id: metric.per_seed[str(seed)] for metric in again.metrics}
    rows = []
    for metric in record.metrics:
        value = metric.per_seed[str(seed)]
        rows.append((metric.name, value, now.get(metric.id, math.nan), allowed(metric.name, value, record.tolerance)))
    return rows


def allowed(name: str, value: float, tolerance: Tolerance) -> float:
    """How far a metric may drift between machines, by its kind."""
    if name.startswith("FD "):
        return tolerance.fd_relative * abs(value)
    return tolerance.score_nats if name.startswith("JEPA-SCORE") else tolerance.fraction
