"""Figures from papers as data: one JSON file a board, shown beside measured rows and never ranked with them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from minoritybench.errors import BadInputError
from minoritybench.plain_text import text_faults
from minoritybench.records import validated
from minoritybench.store import read_json


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class PublishedColumn(_Strict):
    """A column in the paper's order; `better` is None where neither direction is, `decimals` as printed."""

    name: str = Field(min_length=1)
    better: Literal["higher", "lower"] | None
    decimals: int = Field(ge=0, le=4)


class PublishedRow(_Strict):
    """A row as printed; a value is None where the paper has a dash. `label` is our method's name where it is one of
    ours."""

    label: str = Field(min_length=1)
    values: dict[str, float | None]


class PublishedTable(_Strict):
    """One table of one paper. What the source does not say is None. `head` says what the rows are."""

    source: str = Field(pattern=r"^arXiv:\d{4}\.\d{4,5}(v\d+)?$")
    table: str = Field(min_length=1)
    head: str = Field(min_length=1)
    n_generated: int | None = Field(gt=0)
    n_reference: int | None = Field(gt=0)
    steps: int | None = Field(gt=0)
    encoder: str | None
    notes: list[str]
    columns: list[PublishedColumn] = Field(min_length=1)
    rows: list[PublishedRow] = Field(min_length=1)

    @model_validator(mode="after")
    def _rows_fit(self) -> Self:
        names = [column.name for column in self.columns]
        if len(set(names)) < len(names):
            raise ValueError("two columns have one name")
        if len({row.label for row in self.rows}) < len(self.rows):
            raise ValueError("two rows have one label")
        for row in self.rows:
            if list(row.values) != names:
                raise ValueError(f"row {row.label!r} must have the values of {names}, in that order")
            for column in self.columns:
                value = row.values[column.name]
                if value is not None and round(value, column.decimals) != value:
                    raise ValueError(f"row {row.label!r}: {column.name} has more than {column.decimals} decimals")
        return self


class PublishedBoard(_Strict):
    """What `leaderboards/published/NAME.json` holds: the tables of one board, and notes on their conventions."""

    board: str
    title: str = Field(min_length=1)
    notes: list[str]
    tables: list[PublishedTable] = Field(min_length=1)


def load_published(folder: Path) -> dict[str, PublishedBoard]:
    """The published boards of a folder by name; none where there is no such folder. Errors: one line naming file and
    field; its texts stand in markdown, so that `text_faults` of them are errors, too."""
    boards = {}
    for path in sorted(folder.glob("*.json")):
        document = read_json(path)
        board = validated(PublishedBoard, document, str(path))
        for fault in text_faults(document):
            raise BadInputError(f"{path}: {fault}")
        if board.board != path.stem:
            raise BadInputError(f"{path}: board: is {board.board!r}, the file's name says {path.stem!r}")
        boards[board.board] = board
    return boards
