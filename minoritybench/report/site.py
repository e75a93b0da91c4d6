"""index.html: every board on one self-contained page, a pure function of records, sidecars, papers' figures, code."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from minoritybench.badges import Badge, badge_of
from minoritybench.records import BenchmarkSpec, ReferenceSet, RunRecord
from minoritybench.references import LoadedReference, both_ends
from minoritybench.registry import entries, is_ours, method_names
from minoritybench.report.board import value_text
from minoritybench.report.cards import Card, method_card
from minoritybench.report.legend import legend
from minoritybench.report.pages import render
from minoritybench.report.paired import difference_text
from minoritybench.report.pictures import bitmap_uri
from minoritybench.report.plots import interval_mark
from minoritybench.report.published import facts
from minoritybench.report.scatter import Plot, interval, plain_method, plots
from minoritybench.report.table import ARROWS
from minoritybench.report.tables import BoardData, Cell, Column, PairedSection, Row, Section, is_distance
from minoritybench.sidecars import SHEET_FILE, SHEET_IMAGES

COMMAND = "leaderboard build"
SHOWN_OF_A_SET = 24
LARGEST_SHEET = 64 * 1024
"""Bytes of a thumbnail sheet that still stands in the page; a larger one is linked."""
ALL_SHEETS = 1024 * 1024
"""Bytes of all sheets in the page, so that it stays below 2 MB however many rows are filed."""


@dataclass(frozen=True)
class CellView:
    """A cell as drawn; `sort` is its full-precision value as text, empty where there is none."""

    text: str
    sort: str
    place: str | None
    level: bool
    mark: Markup


@dataclass(frozen=True)
class RowView:
    """A row as drawn; `earned` is what its badge other than `self` stands on."""

    row: Row
    badge: str
    earned: Badge | None
    cells: list[CellView]
    milliseconds: str


@dataclass(frozen=True)
class TableView:
    """A table as drawn, rows by `sorted_by`, the best first."""

    section: Section
    anchor: str
    sorted_by: Column
    rows: list[RowView]
    ideals: list[str]


@dataclass(frozen=True)
class PairedView:
    """Differences to plain sampling as drawn."""

    section: PairedSection
    anchor: str
    rows: list[tuple[str, list[tuple[str, str]]]]


@dataclass(frozen=True)
class Sheet:
    """The first samples of a row: in the page by `uri`, or too large for it and linked by `path`."""

    label: str
    group: str
    plain: bool
    seed: int
    path: str
    uri: str | None


@dataclass(frozen=True)
class Ends:
    """Both ends of an embedded reference set's dataset: picture, name and score of each image."""

    recipe: ReferenceSet
    lowest: list[tuple[str, str, float]]
    highest: list[tuple[str, str, float]]


@dataclass(frozen=True)
class BoardView:
    """One board as drawn."""

    data: BoardData
    tables: list[TableView] = field(default_factory=list)
    paired: PairedView | None = None
    plots: list[Plot] = field(default_factory=list)
    sheets: list[tuple[str, list[Sheet]]] = field(default_factory=list)
    ends: Ends | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class MethodView:
    """One method as drawn: its card and every row that it has on a board."""

    name: str
    card: Card
    rows: list[tuple[BoardView, RowView]]


def index_html(boards: Iterable[BoardData], results: Path, folders: Mapping[str, Path]) -> str:
    """The whole page. `folders`: where each record lies, by id, below the `results` folder. The page asks for nothing
    from anywhere."""
    purse = _Purse(results, folders)
    views = [_board(data, purse) for data in boards]
    views.sort(key=lambda view: not view.tables)  # measured boards first, else the order given
    return render(
        "index.html",
        COMMAND,
        boards=views,
        methods=_methods(views),
        arrows=ARROWS,
        sheet_images=SHEET_IMAGES,
        facts=facts,
    )


class _Purse:
    """Thumbnail sheets as data URIs while they are small and the page has room, byte by byte as they are filed."""

    def __init__(self, results: Path, folders: Mapping[str, Path]) -> None:
        self._results, self._folders, self._left = results, folders, ALL_SHEETS

    def sheets(self, section: Section, plain: str) -> list[Sheet]:
        """Those of a table's rows, that of plain sampling first: the page sets the others beside it."""
        return [
            self._sheet(row, plain) for row in sorted(section.rows, key=lambda row: row.record.method.name != plain)
        ]

    def _sheet(self, row: Row, plain: str) -> Sheet:
        file = self._folders[row.record.id] / SHEET_FILE
        place = Path(self._results.name, file.relative_to(self._results)).as_posix()
        size, uri = file.stat().st_size, None
        if size <= min(LARGEST_SHEET, self._left):
            self._left -= size
            uri = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
        name = row.record.method.name
        return Sheet(row.label, name, name == plain, row.record.sampling.seeds[0], place, uri)


def _board(data: BoardData, purse: _Purse) -> BoardView:
    if data.benchmark is None:
        return BoardView(data)
    tables = [section for section in data.sections if isinstance(section, Section)]
    paired = next((section for section in data.sections if isinstance(section, PairedSection)), None)
    return BoardView(
        data,
        tables=[
            _table(section, f"{data.name}-{number}", data.badges) for number, section in enumerate(tables, start=1)
        ],
        paired=None if paired is None else _paired(paired, f"{data.name}-paired"),
        plots=plots(data.benchmark, tables, data.values),
        sheets=[(section.title, purse.sheets(section, plain_method(data.benchmark))) for section in tables],
        ends=_ends(data.benchmark) if tables else None,
        notes=legend(data.benchmark, data.records),
    )


def _table(section: Section, anchor: str, badges: Mapping[str, Badge]) -> TableView:
    key = next((c for c in section.columns if is_distance(c.name)), section.columns[0])
    place = section.columns.index(key)
    spans = [_span([row.cells[number] for row in section.rows]) for number in range(len(section.columns))]

    def order(row: Row) -> tuple[bool, float, str]:
        metric = row.cells[place].metric
        if metric is None:
            return True, 0.0, row.label
        return False, metric.value if key.direction == "lower" else -metric.value, row.label

    rows = [
        RowView(
            row,
            badge_of(row.record, badges),
            badges.get(row.record.id),
            [_cell(cell, span) for cell, span in zip(row.cells, spans, strict=True)],
            f"{1000 * row.record.cost.seconds_per_sample:.2f}",
        )
        for row in sorted(section.rows, key=order)
    ]
    ideals = [f"{section.ideals[c.id]:.2f}" if c.id in section.ideals else "" for c in section.columns]
    return TableView(section, anchor, key, rows, ideals if section.ideals else [])


def _paired(section: PairedSection, anchor: str) -> PairedView:
    rows = [
        (label, [("–", "") if one is None else (difference_text(one), repr(one[0])) for one in found])
        for label, found in section.rows
    ]
    return PairedView(section, anchor, rows)


def _span(cells: Sequence[Cell]) -> tuple[float, float]:
    """Least and greatest end of the intervals of a column."""
    found = [interval(cell.metric) for cell in cells if cell.metric is not None]
    return min((low for low, _, _ in found), default=0.0), max((high for _, _, high in found), default=0.0)


def _cell(cell: Cell, span: tuple[float, float]) -> CellView:
    if cell.metric is None:
        return CellView("–", "", None, False, Markup(""))
    mark = interval_mark(interval(cell.metric), span)
    return CellView(value_text(cell.metric), repr(cell.metric.value), cell.place, cell.level, mark)


def _ends(benchmark: BenchmarkSpec) -> Ends | None:
    """Pictures of both ends of a set that is embedded; none of a dataset that is not shipped."""
    found = both_ends(benchmark.reference_set, SHOWN_OF_A_SET)
    return None if found is None else Ends(found[0].recipe, _tiles(found[0]), _tiles(found[1]))


def _tiles(images: LoadedReference) -> list[tuple[str, str, float]]:
    told = zip(images.members["id"], images.members["score_deflated"], strict=True)
    rows = zip(told, images.each_image(), strict=True)
    return [(bitmap_uri(image.pixels), str(name), float(score)) for (name, score), image in rows]


def _methods(boards: Sequence[BoardView]) -> list[MethodView]:
    """Our methods and those of others that have a row, in name order; what else is installed here changes nothing."""
    shown = [(view, row) for view in boards for table in view.tables for row in table.rows]
    used = {name for _, row in shown for name in method_names(row.row.record.method.name)}
    known = {name for name in entries("methods") if is_ours("methods", name)}
    return [
        MethodView(name, method_card(name), [one for one in shown if _first_method(one[1].row.record) == name])
        for name in sorted(used | known)
    ]


def _first_method(record: RunRecord) -> str:
    """The method in whose section a record stands: of a chain the first."""
    return method_names(record.method.name)[0]
