"""Who measured a row of a leaderboard again: `leaderboards/badges.json`, apart from the records, which cannot say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from minoritybench.errors import BadInputError
from minoritybench.records import Count, RunRecord, validated
from minoritybench.store import pretty_json, read_json, write_text

BADGES_NAME = "badges.json"
Granted = Literal["ci", "maintainer"]
Shown = Literal["self", "ci", "maintainer"]
_PLAIN = re.compile(r"\w|\w[\w.,:/@+'()=% -]{0,118}[\w.)%+]")


def plain(text: str) -> str:
    """A short text that means the same in every format, as it is. Errors: ValueError for any other."""
    if not _PLAIN.fullmatch(text):
        raise ValueError("must be plain text, up to 120 letters, digits, spaces and .,:/@+'()=%- without markup")
    return text


def _iso_date(text: str) -> str:
    if date.fromisoformat(text).isoformat() != text:
        raise ValueError("must be a date like 2026-01-31")
    return text


Plain = Annotated[str, AfterValidator(plain)]


class Badge(BaseModel):
    """A row was measured again and came out within its tolerance.

    `record` is the full id. `badge` is `ci` for a public CI job, `maintainer` for a machine of a maintainer's;
    `by` names it. `on` is the date (UTC), `commit` the minoritybench that measured, on `device`, `n` samples a seed.
    `largest_drift` is the largest difference as a fraction of what the tolerance allows, and `metric` has it.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, strict=True)

    record: str = Field(pattern=r"^[0-9a-f]{64}$")
    badge: Granted
    by: Plain
    on: Annotated[str, AfterValidator(_iso_date)]
    commit: str = Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")
    device: Plain
    seeds: list[Count] = Field(min_length=1)
    n: Count
    largest_drift: float = Field(ge=0, le=1)
    metric: Plain

    @property
    def key(self) -> tuple[str, str]:
        """What there is one entry of, and what entries are sorted by."""
        return self.record, self.badge


def badges_file(results: Path) -> Path:
    """Where the badges of a folder of records stand: beside it."""
    return results.parent / BADGES_NAME


def load_badges(results: Path) -> dict[str, Badge]:
    """The badge to show of every record that has one, by full record id: `maintainer` before `ci`. None where there is
    no file. Errors: one line naming file and entry (exit 2)."""
    return {badge.record: badge for badge in sorted(read_badges(results), key=lambda badge: badge.key)}


def badge_of(record: RunRecord, badges: Mapping[str, Badge]) -> Shown:
    """What a row shows, given `load_badges`: `self` where only whoever submitted it has measured it."""
    badge = badges.get(record.id)
    return "self" if badge is None else badge.badge


def read_badges(results: Path) -> list[Badge]:
    """Every entry, in the order of the file. Errors: as `load_badges`."""
    path = badges_file(results)
    return [validated(Badge, item, _place(path, number)) for number, item in _items(path)]


def add_badge(results: Path, badge: Badge) -> Path:
    """Write an entry into its place; an earlier one of the same record and badge goes. Errors: as `load_badges`."""
    entries = {entry.key: entry for entry in [*read_badges(results), badge]}
    document = [entries[key].model_dump(mode="json") for key in sorted(entries)]
    write_text(badges_file(results), pretty_json(document))
    return badges_file(results)


def badge_faults(results: Path, records: Sequence[RunRecord]) -> Iterator[str]:
    """What is wrong with the badges of a folder that has these `records`, superseded ones among them; each fault one
    line that names file and entry."""
    path, filed = badges_file(results), {record.id: record for record in records}
    last = ("", "")
    try:
        items = _items(path)
    except BadInputError as error:
        yield str(error)
        return
    for number, item in items:
        place = _place(path, number)
        try:
            badge = validated(Badge, item, place)
        except BadInputError as error:
            yield str(error)
            continue
        for fault in (*_order_faults(badge, last), *_record_faults(badge, filed.get(badge.record))):
            yield f"{place} ({badge.badge} of {badge.record[:10]}): {fault}"
        last = max(last, badge.key)


def _place(path: Path, number: int) -> str:
    return f"{path}: entry {number}"


def _items(path: Path) -> list[tuple[int, Any]]:
    if not path.exists():
        return []
    document = read_json(path)
    if not isinstance(document, list):
        raise BadInputError(f"{path}: must be a list of entries")
    return list(enumerate(document, start=1))


def _order_faults(badge: Badge, last: tuple[str, str]) -> Iterator[str]:
    if badge.key == last:
        yield "a second one of the same record and badge"
    elif badge.key < last:
        yield "not in its place: entries are sorted by record, then badge"


def _record_faults(badge: Badge, record: RunRecord | None) -> Iterator[str]:
    """What the entry says that its record contradicts."""
    if record is None:
        yield "no record of that id is filed"
        return
    seeds = record.sampling.seeds
    if not set(badge.seeds) <= set(seeds) or sorted(set(badge.seeds)) != badge.seeds:
        yield f"seeds {badge.seeds} must be of the record's {seeds}, each once, ascending"
    if badge.n != record.sampling.n:
        yield f"n is {badge.n}, the record has {record.sampling.n}"
    if record.metric(badge.metric) is None:
        yield f"metric {badge.metric!r} is none of the record's"
