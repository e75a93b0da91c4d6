"""Where a README shows the table of a board: between `<!-- board:NAME -->` and `<!-- /board:NAME -->`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_ANY = re.compile(r"<!-- /?board:(\S+) -->")


def between_markers(text: str, name: str, tables: str) -> str:
    """`text` with the tables of a board between its markers, if it has them."""
    start, end = _markers(name)
    head, opening, rest = text.partition(start)
    _, closing, tail = rest.partition(end)
    return f"{head}{start}\n{tables}\n{end}{tail}" if opening and closing else text


def marker_faults(text: str, needed: Iterable[str]) -> Iterator[str]:
    """Boards whose table cannot be kept up to date: those `needed` without markers, and any without just one pair."""
    needed = set(needed)
    for name in sorted(needed | set(_ANY.findall(text))):
        start, end = _markers(name)
        told = f"{start.strip()} and {end.strip()}, each on a line of its own"
        if name not in _ANY.findall(text):
            yield f"the board {name} has rows and no place here: add the lines {told}"
        elif text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
            yield f"the markers of the board {name} must be one pair, {told}"


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- board:{name} -->\n", f"<!-- /board:{name} -->\n"
