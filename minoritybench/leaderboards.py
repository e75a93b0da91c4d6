"""Records on disk to boards on disk: find, validate, build, compare, file."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import SequenceMatcher
from functools import cache
from itertools import zip_longest
from pathlib import Path

from minoritybench.badges import badge_faults, load_badges
from minoritybench.board_markers import between_markers, marker_faults
from minoritybench.errors import BadInputError, MinorityBenchError, counted
from minoritybench.measures import Arrays
from minoritybench.published import load_published
from minoritybench.record_checks import content_faults, sidecar_faults
from minoritybench.record_files import RECORD_NAME, history_faults, record_file, size_faults, stray_faults
from minoritybench.records import BenchmarkSpec, RunRecord, load_benchmark, load_record
from minoritybench.registry import entries, is_ours
from minoritybench.report.board import board_markdown, summary_markdown
from minoritybench.report.paired import Values
from minoritybench.report.site import index_html
from minoritybench.report.tables import BoardData, board_data, current, is_declared, setting_fields
from minoritybench.sidecars import PER_IMAGE_FILE, image_digests, read_values
from minoritybench.store import pretty_json, read_json, write_text

PUBLISHED_FOLDER = "published"
INDEX = "index.html"
LARGEST_INDEX = 2_000_000
"""Bytes below which the page of all boards stays, so that a phone can load it."""
_FOLDER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")
_LONGEST_FAULT = 300
_LINES_SHOWN = 20
"""Faulty lines of one generated file that are told; the others are counted."""
_REFUSAL_SHOWN = 3
"""Faults that a refused record is told of."""


def find_records(results: Path) -> list[Path]:
    """All filed records, in path order."""
    return sorted(results.rglob(RECORD_NAME))


def require_results(results: Path) -> None:
    """Refuse a results folder that is not there: the command was run outside a checkout, or the path is wrong."""
    if not results.is_dir():
        raise BadInputError(f"--results {results}: no such folder; run this in a checkout, or name the filed records")


def build(results: Path, out: Path) -> dict[Path, str]:
    """What every generated file should hold: one board for each benchmark and for each file of figures from papers in
    `published/` beside `results`, and the first table of those that the README beside `out` has markers for."""
    found = {path.parent: load_record(path) for path in find_records(results)}
    folders, records = {record.id: folder for folder, record in found.items()}, list(found.values())
    published = load_published(results.parent / PUBLISHED_FOLDER)
    boards, badges = [], load_badges(results)
    used = {record.benchmark for record in records}  # another package's benchmark has a board where it has a record
    for name in sorted(name for name in entries("benchmarks") if is_ours("benchmarks", name) or name in used):
        benchmark = load_benchmark(name)
        values = image_values(benchmark, folders)
        boards.append(board_data(benchmark, records, values, published.pop(name, None), badges))
    boards += [BoardData(name, figures.title, published=figures) for name, figures in published.items()]
    pages = {out / f"{board.name}.md": board_markdown(board) for board in boards}
    pages[out / INDEX] = index_html(boards, results, folders)
    readme = out.parent / "README.md"
    if readme.is_file():
        text = _readme_text(readme)
        for board in boards:
            text = between_markers(text, board.name, summary_markdown(board))
        pages[readme] = text
    return pages


def image_values(benchmark: BenchmarkSpec, folders: Mapping[str, Path]) -> Values:
    """Reads the values of a record's images from the table beside it, once."""

    @cache
    def by_id(name: str) -> Mapping[str, Arrays]:
        folder = folders[name]
        return read_values(load_record(folder / RECORD_NAME), benchmark, folder / PER_IMAGE_FILE)

    return lambda record: by_id(record.id)


def _readme_text(readme: Path) -> str:
    try:
        return readme.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{readme} is not readable text: {error}") from error


def write_boards(results: Path, out: Path) -> list[Path]:
    """Write the generated files; returns those that changed. Error: no results folder (exit 2)."""
    require_results(results)
    changed = []
    for path, text in build(results, out).items():
        if not path.is_file() or path.read_bytes() != text.encode():
            write_text(path, text)
            changed.append(path)
    return changed


def check(results: Path, out: Path, against: str | None = None) -> list[str]:
    """Every fault of the records and every generated line that is not what the records say; empty when all is well.

    `against` is a branch or commit: what it had filed when this work began must still be there, unedited. Without it a
    results folder that is not there is an error (exit 2); with it, its records were deleted.
    """
    if against is None:
        require_results(results)
    paths = find_records(results)
    faults = [*(history_faults(results, against) if against else ()), *stray_faults(results, paths)]
    records = _readable(paths)
    misfits = list(_supersede_faults(records))
    gone = _superseded(records, {path for path, _ in misfits})
    faults += [fault for path in paths for fault in record_faults(path, results, gone)]
    faults += _repeat_faults(records, gone)
    if not faults:
        faults += [f"{path}: {fault}" for path, fault in misfits]
        faults += map(_one_line, badge_faults(results, [record for _, record in records]))
    if faults:
        return faults  # boards of faulty records or badges would only repeat the news
    try:
        pages = build(results, out)
        for path, text in pages.items():
            faults += _line_faults(path, text)
        faults += _index_faults(out / INDEX, pages[out / INDEX])
        faults += _readme_faults(out.parent / "README.md", [record for _, record in records])
    except MinorityBenchError as error:
        faults.append(_one_line(str(error)))
    return faults


def _index_faults(path: Path, text: str) -> Iterator[str]:
    if (size := len(text.encode())) >= LARGEST_INDEX:
        yield (
            f"{path}: as built it has {size:,} bytes and must have fewer than {LARGEST_INDEX:,}: shorten the texts of"
            " new records, or take fewer sheets into the page (ALL_SHEETS in minoritybench/report/site.py)"
        )


def _readme_faults(readme: Path, records: Sequence[RunRecord]) -> list[str]:
    """Boards with rows at their declared settings that a README beside the boards has no place for, and other faults of
    its places."""
    if not readme.is_file():
        return []
    needed = []
    for benchmark in map(load_benchmark, {record.benchmark for record in records}):
        rows = current([record for record in records if record.benchmark == benchmark.name])
        if any(is_declared(record, benchmark) and not record.sampling.class_conditional for record in rows):
            needed.append(benchmark.name)
    return [f"{readme}: {_one_line(fault)}" for fault in marker_faults(_readme_text(readme), needed)]


def record_faults(path: Path, results: Path | None = None, superseded: frozenset[str] = frozenset()) -> list[str]:
    """What is wrong with one record file, a line each; `results` also checks that it lies where its content says, and
    `superseded` are the ids of records that no board shows any more."""
    too_large = list(size_faults(path))
    if too_large:
        return [f"{path}: {fault}" for fault in too_large]
    try:
        record = load_record(path)
    except MinorityBenchError as error:
        return [_one_line(str(error))]  # names the file itself
    old = record.id in superseded
    faults = [
        *content_faults(record, read_json(path), superseded=old),
        *sidecar_faults(record, path.parent, superseded=old),
    ]
    try:
        place = record_place(record)
        if results is not None and path != results / place / RECORD_NAME:
            faults.append(f"filed in the wrong folder; it belongs in {place}")
    except BadInputError as error:
        faults.append(str(error))
    return [f"{path}: {_one_line(fault)}" for fault in faults]


def _readable(paths: Sequence[Path]) -> list[tuple[Path, RunRecord]]:
    """The records that are small enough and can be read; of the others `record_faults` tells."""
    records = []
    for path in paths:
        with suppress(MinorityBenchError):
            if not any(size_faults(path)):
                records.append((path, load_record(path)))
    return records


def _repeat_faults(records: Sequence[tuple[Path, RunRecord]], superseded: frozenset[str]) -> Iterator[str]:
    """One measurement makes one row: of records on the boards no two of a method and a guide have the same images."""
    first: dict[tuple[str, ...], tuple[Path, RunRecord]] = {}
    for path, record in records:
        if record.id in superseded:
            continue
        try:
            images = image_digests(path.parent / PER_IMAGE_FILE)
        except BadInputError:
            continue  # told by `record_faults`
        other, known = first.setdefault((*_judged(record), *images), (path, record))
        if other == path:
            continue
        field = _setting_difference(known, record)
        if field is None:
            yield f"{path}: a duplicate of {other}; to replace that record, supersede it"
        else:
            yield f"{path}: has the very images of {other}, though {field} differs: file one of the two"


def _judged(record: RunRecord) -> tuple[str, str, str]:
    """What a row stays another with by right, though its images are the same: a guide may only judge."""
    return record.benchmark, record.method.name, record.encoder.guide


def _superseded(records: Sequence[tuple[Path, RunRecord]], misfits: Container[Path]) -> frozenset[str]:
    """Ids that a readable record takes the place of and may: one of `misfits` may not."""
    return frozenset(r.supersedes for path, r in records if r.supersedes is not None and path not in misfits)


def record_place(record: RunRecord) -> Path:
    """Folder of a record below the results folder; names that could lead out of it are refused."""
    parts = (record.benchmark, record.method.name, record.id[:16])
    for part in parts:
        if not _FOLDER_NAME.fullmatch(part):
            raise BadInputError(f"{part[:100]!r} cannot name a folder of results: letters, digits and _.+- only")
    return Path(*parts)


def add(path: Path, results: Path, supersedes: str | None = None) -> Path:
    """Validate a record with its sidecars and copy it to its place; refuse a faulty one or one already there.

    `path` is the record file or its folder.
    `supersedes` is the id, or the start of one, of a filed record of the same benchmark, method and setting that this
    one takes the place of on the board; it becomes part of the record, whose id therefore changes.
    """
    path = record_file(path)
    faults = record_faults(path)
    if faults:
        raise BadInputError(_refusal(path, faults))
    record = load_record(path)
    if supersedes is not None:
        _, older = filed_record(supersedes, results, "--supersedes")
        record = record.model_copy(update={"supersedes": older.id})
        record = record.model_copy(update={"id": record.content_id()})
    filed = [(other, load_record(other)) for other in find_records(results)]
    for fault in (fault for own, fault in _supersede_faults([*filed, (path, record)]) if own == path):
        raise BadInputError(f"{path}: {fault}")
    place = results / record_place(record)
    if place.exists():
        raise BadInputError(f"{place} is there already: the record was filed before")
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=results, prefix=".adding-") as scratch:
        staged = Path(scratch) / "record"
        staged.mkdir()
        for artifact in record.artifacts:
            shutil.copyfile(path.parent / artifact.path, staged / artifact.path)
        write_text(staged / RECORD_NAME, pretty_json(record.model_dump(mode="json")))
        place.parent.mkdir(parents=True, exist_ok=True)
        staged.rename(place)
    return place


def _refusal(path: Path, faults: Sequence[str]) -> str:
    """The first faults of a record in one line that names it once, and how many more there are."""
    told = [faults[0], *(fault.removeprefix(f"{path}: ") for fault in faults[1:_REFUSAL_SHOWN])]
    if len(faults) > _REFUSAL_SHOWN:
        told.append(f"and {counted(len(faults) - _REFUSAL_SHOWN, 'more fault')}")
    return "; ".join(told)


def filed_record(start: str, results: Path, flag: str) -> tuple[Path, RunRecord]:
    """The filed record whose id begins so, and its file. Errors: not exactly one does; the line names `flag`."""
    filed = [(path, load_record(path)) for path in find_records(results)]
    found = [(path, record) for path, record in filed if record.id.startswith(start)]
    if len(found) != 1:
        raise BadInputError(f"{flag} {start!r} is the start of {len(found)} filed records' ids, not of one")
    return found[0]


def _supersede_faults(records: Sequence[tuple[Path, RunRecord]]) -> Iterator[tuple[Path, str]]:
    """A record replaces only one that is filed, of its own benchmark, method and setting: nobody hides another's row,
    nor one of their own that a newer row does not stand for."""
    known = {record.id: (path, record) for path, record in records}
    for path, record in records:
        if record.supersedes is None:
            continue
        if record.supersedes not in known:
            yield path, _one_line(f"supersedes {record.supersedes!r}, which is not among the results")
            continue
        place, older = known[record.supersedes]
        if (older.benchmark, older.method.name) != (record.benchmark, record.method.name):
            yield path, f"supersedes {older.id[:16]}, a record of {older.method.name} on {older.benchmark}"
        elif (field := _setting_difference(older, record)) and _is_up_to_date(place, older):
            told = f"supersedes {older.id[:16]}, a record of another setting: {field} differs; file it beside that one"
            yield path, _one_line(told)


def _setting_difference(older: RunRecord, record: RunRecord) -> str | None:
    """The first field in which two records are of different settings, None where they share one."""
    one, other = setting_fields(older), setting_fields(record)
    return next((field for field in {**one, **other} if one.get(field) != other.get(field)), None)


def _is_up_to_date(path: Path, record: RunRecord) -> bool:
    """Whether a record would be valid if it was filed today. One of an earlier version may lack what its method has
    gained since; then no record of today can have its setting."""
    return not any(content_faults(record, read_json(path)))


def _line_faults(path: Path, expected: str) -> list[str]:
    """The first lines of a generated file that differ, by number, with the cells that do, and how many more do."""
    if not path.is_file():
        return [f"{path}: missing; run `minoritybench leaderboard build`"]
    found, wanted = path.read_bytes().decode("utf-8", "replace").split("\n"), expected.split("\n")
    faults = []
    for kind, first, last, start, end in SequenceMatcher(None, found, wanted, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        lines = zip_longest(range(first, last), found[first:last], wanted[start:end])
        faults += [f"{path}:{last if n is None else n + 1}: {_line_fault(old, new)}" for n, old, new in lines]
    if (more := len(faults) - _LINES_SHOWN) > 0:
        told = f"{path}: {counted(more, 'more line')} not as the records say; run `minoritybench leaderboard build`"
        return [*faults[:_LINES_SHOWN], told]
    return faults


def _line_fault(old: str | None, new: str | None) -> str:
    if old is None:
        return f"a line is missing after this: {_cut(new or '')}"
    if new is None:
        return f"no record makes this: {_cut(old)}"
    cells, wanted = old.split("|"), new.split("|")
    if len(cells) != len(wanted) or len(cells) == 1:
        return f"is {_cut(old)}, the records say {_cut(new)}"
    pairs = enumerate(zip(cells, wanted, strict=True))
    told = [
        f"cell {number} is {_cut(is_)}, the records say {_cut(says)}" for number, (is_, says) in pairs if is_ != says
    ]
    return _one_line("; ".join(told))


def _cut(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _one_line(text: str) -> str:
    """A fault quotes what it finds: on one line, cut, and with nothing in it that a terminal would obey."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))
    return line if len(line) <= _LONGEST_FAULT else line[: _LONGEST_FAULT - 3] + "..."


def shown_records(benchmark: BenchmarkSpec, results: Path) -> list[RunRecord]:
    """Every record that is a row of a benchmark's board, in the board's order."""
    records = [load_record(path) for path in find_records(results)]
    return current([record for record in records if record.benchmark == benchmark.name])


def declared_record(benchmark: BenchmarkSpec, method: str, results: Path) -> RunRecord:
    """The current unconditional record of a method at its declared settings."""
    for record in shown_records(benchmark, results):
        same = record.method.name == method
        if same and not record.sampling.class_conditional and is_declared(record, benchmark):
            return record
    raise BadInputError(f"no record of {method!r} at its declared settings in {results}")
