"""Records as the tables of a board, before anything is drawn: sections, rows, places, what is level with the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from minoritybench.badges import Badge
from minoritybench.methods import check_known, configure
from minoritybench.published import PublishedBoard
from minoritybench.records import BenchmarkSpec, MetricRecord, RunRecord
from minoritybench.report.differences import metric_difference
from minoritybench.report.paired import BASELINE, Difference, Values, differences, image_metrics
from minoritybench.report.table import row_label

Place = Literal["best", "second"]
DECLARED = "Methods at their declared settings"
CONDITIONAL = "Class-conditional"
OTHER = "Other settings, not ranked"
PAIRED = f"Difference to {BASELINE}, image by image"


@dataclass(frozen=True)
class Column:
    """One column: a metric id, never shared by values that do not compare."""

    id: str
    name: str
    direction: str


@dataclass(frozen=True)
class Cell:
    """A metric of a row, None where the row has no such metric. `place` by value, ties shared; `level`: a worse value
    whose difference to the best holds 0 in its 95 % interval."""

    metric: MetricRecord | None
    place: Place | None = None
    level: bool = False


@dataclass(frozen=True)
class Row:
    """A record as a row; `cells` in the order of the section's columns."""

    record: RunRecord
    label: str
    cells: list[Cell]


@dataclass(frozen=True)
class Section:
    """A table of a board: rows that share columns. `ideals`: what a perfect generator is expected to reach, by metric
    id. Places and levels are given only where it is `ranked`."""

    title: str
    ranked: bool
    columns: list[Column]
    rows: list[Row]
    ideals: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PairedSection:
    """Rows less the plain one, image by image: labels with a difference for each column, None where there is none."""

    title: str
    columns: list[Column]
    rows: list[tuple[str, list[Difference | None]]]


@dataclass(frozen=True)
class BoardData:
    """What one board is made of: a benchmark with its records and the tables of them, figures from papers, or both."""

    name: str
    title: str
    benchmark: BenchmarkSpec | None = None
    records: Sequence[RunRecord] = ()
    values: Values | None = None
    sections: Sequence[Section | PairedSection] = ()
    published: PublishedBoard | None = None
    badges: Mapping[str, Badge] = field(default_factory=dict)


def board_data(
    benchmark: BenchmarkSpec,
    records: Sequence[RunRecord],
    values: Values | None = None,
    published: PublishedBoard | None = None,
    badges: Mapping[str, Badge] | None = None,
) -> BoardData:
    """The board of a benchmark; `values` as for `sections`, `badges` as `load_badges` gives them."""
    tables = sections(benchmark, records, values)
    return BoardData(benchmark.name, benchmark.title, benchmark, records, values, tables, published, badges or {})


def current(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Of each method, setting and guide the newest record that no other supersedes, in a fixed order."""
    gone = {record.supersedes for record in records}
    newest: dict[tuple[str, ...], RunRecord] = {}
    for record in sorted(records, key=lambda r: (r.created, r.id)):
        if record.id not in gone:
            newest[setting(record)] = record
    return [newest[key] for key in sorted(newest)]


def setting(record: RunRecord) -> tuple[str, ...]:
    """What a row of a board is told apart by: benchmark, method, guide, labels, hyperparameters, chain and samples."""
    return tuple(setting_fields(record).values())


def setting_fields(record: RunRecord) -> dict[str, str]:
    """`setting` by the fields of the record that it is made of."""
    params = {f"method.params.{key}": f"{key}={value!r}" for key, value in sorted(record.method.params.items())}
    text = {f"sampling.text.{key}": f"{key}={value!r}" for key, value in sorted(record.sampling.text.items())}
    return {
        "benchmark": record.benchmark,
        "method.name": record.method.name,
        "encoder.guide": record.encoder.guide,
        "sampling.class_conditional": str(record.sampling.class_conditional),
        **params,
        **text,
        "sampling.n": str(record.sampling.n),
    }


def sections(
    benchmark: BenchmarkSpec, records: Sequence[RunRecord], values: Values | None = None
) -> list[Section | PairedSection]:
    """The tables of a benchmark: declared settings, ranked; of a text-to-image benchmark the differences to plain
    sampling; then other settings; then other guides and other numbers of samples, whose metrics do not compare, apart.

    `values` are those of the records' images: with them differences are taken image by image, without them by seed.
    """
    rows = current([record for record in records if record.benchmark == benchmark.name])
    declared = [record for record in rows if is_declared(record, benchmark)]
    found: list[Section | PairedSection] = []
    for conditional, title in ((False, DECLARED), (True, CONDITIONAL)):
        part = [record for record in declared if record.sampling.class_conditional == conditional]
        found += _section(title, part, benchmark, values, ranked=True)
    if benchmark.text is not None and values is not None:
        found += _paired_section(declared, benchmark, values)
    other = [record for record in rows if record not in declared]
    usual = (benchmark.guide, benchmark.n)
    for guide, n in sorted({_terms(record) for record in other}, key=lambda terms: (terms != usual, terms)):
        part = [record for record in other if _terms(record) == (guide, n)]
        terms = [f"Guide and judge {guide}"] if guide != benchmark.guide else []
        terms += [f"{n:,} samples a seed"] if n != benchmark.n else []
        found += _section(", ".join([*terms, "not ranked"]) if terms else OTHER, part, benchmark, values, ranked=False)
    return found


def _terms(record: RunRecord) -> tuple[str, int]:
    """What rows must share for their metrics to be those of one table."""
    return record.encoder.guide, record.sampling.n


def is_declared(record: RunRecord, benchmark: BenchmarkSpec) -> bool:
    """Whether a record ran with the benchmark's guide, n, chain and settings of the method."""
    same_chain = row_chain(benchmark).items() <= record.sampling.text.items()
    own = _terms(record) == (benchmark.guide, benchmark.n) and same_chain
    return own and record.method.params == _defaults(record, benchmark)


def row_chain(benchmark: BenchmarkSpec) -> dict[str, Any]:
    """How a text-to-image benchmark samples, prompts by name; empty for another."""
    return {} if benchmark.text is None else benchmark.text.model_dump(mode="json")


def is_distance(name: str) -> bool:
    """Whether a metric is the distance to the reference set that a page sorts and plots by."""
    return name.startswith(("FD ", "cFID"))


def board_label(record: RunRecord, benchmark: BenchmarkSpec) -> str:
    """The name of a record's row: its method and what differs from the benchmark's settings."""
    return row_label(record, _defaults(record, benchmark), row_chain(benchmark))


def _defaults(record: RunRecord, benchmark: BenchmarkSpec) -> Mapping[str, Any]:
    check_known(record.method.name)  # a name may be path/to/file.py:X, and resolving it would run the file
    return configure(record.method.name, {}, benchmark).params


def _section(
    title: str, records: Sequence[RunRecord], benchmark: BenchmarkSpec, values: Values | None, *, ranked: bool
) -> list[Section]:
    """The section of these records, or none."""
    if not records:
        return []
    columns = _columns(records)
    cells = {record.id: [Cell(_metric(record, column)) for column in columns] for record in records}
    if ranked:
        _rank(columns, records, cells, _Judge(records, benchmark, values))
    rows = [Row(record, board_label(record, benchmark), cells[record.id]) for record in records]
    ideals = {metric.id: metric.ideal for record in records for metric in record.metrics if metric.ideal is not None}
    return [Section(title, ranked, columns, rows, ideals)]


class _Judge:
    """Whether the values of two records differ significantly in a metric."""

    def __init__(self, records: Sequence[RunRecord], benchmark: BenchmarkSpec, values: Values | None) -> None:
        self._records = {record.id: record for record in records}
        self._benchmark, self._values = benchmark, values
        self._by_image = cache(self._differences)

    def level(self, record: RunRecord, best: RunRecord, column: Column) -> bool:
        """Whether the 95 % interval of their difference holds 0; without an interval nothing is claimed."""
        ours, theirs = _metric(record, column), _metric(best, column)
        if ours is None or theirs is None:
            return False
        found = metric_difference(ours, theirs, self._by_image(record.id, best.id).get(column.id), record)
        return found.ci_low is not None and found.better is None

    def _differences(self, record: str, best: str) -> Mapping[str, Difference]:
        if self._values is None:
            return {}
        return differences(self._records[record], self._records[best], self._benchmark, self._values)


def _rank(columns: Sequence[Column], records: Sequence[RunRecord], cells: dict[str, list[Cell]], judge: _Judge) -> None:
    """Give places by full-precision values, ties sharing one, and mark what is level with the best."""
    for position, column in enumerate(columns):
        found = [(record, metric.value) for record in records if (metric := _metric(record, column)) is not None]
        ladder = sorted({value for _, value in found}, reverse=column.direction == "higher")
        if len(ladder) < 2:
            continue
        places: dict[float, Place] = {ladder[0]: "best", ladder[1]: "second"}
        best = next(record for record, value in found if value == ladder[0])
        for record, value in found:
            level = value != ladder[0] and judge.level(record, best, column)
            place = places.get(value)
            cells[record.id][position] = Cell(_metric(record, column), place, level)


def _paired_section(declared: Sequence[RunRecord], benchmark: BenchmarkSpec, values: Values) -> list[PairedSection]:
    """Every declared row less the declared `ddim`, image by image."""
    plain = next((record for record in declared if record.method.name == BASELINE), None)
    rows = [record for record in declared if record is not plain]
    if plain is None or not rows:
        return []
    columns = [column for column in _columns([plain]) if column.id in image_metrics(plain, benchmark)]
    lines: list[tuple[str, list[Difference | None]]] = []
    for record in rows:
        found = differences(record, plain, benchmark, values)
        lines.append((board_label(record, benchmark), [found.get(column.id) for column in columns]))
    return [PairedSection(PAIRED, columns, lines)]


def _metric(record: RunRecord, column: Column) -> MetricRecord | None:
    return next((metric for metric in record.metrics if metric.id == column.id), None)


def _columns(records: Sequence[RunRecord]) -> list[Column]:
    """Metric ids in the order in which the records list them; a name with several ids gets a column for each."""
    seen: dict[str, Column] = {}
    for record in records:
        for metric in record.metrics:
            seen.setdefault(metric.id, Column(metric.id, metric.name, metric.direction))
    order = list(dict.fromkeys(metric.name for record in records for metric in record.metrics))
    columns = sorted(seen.values(), key=lambda column: order.index(column.name))
    names = [column.name for column in columns]
    return [
        column
        if names.count(column.name) == 1
        else Column(column.id, f"{column.name} #{column.id[:4]}", column.direction)
        for column in columns
    ]
