"""Cards of methods: what the file of a method says of it, as data."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from minoritybench.registry import resolve

_WIDTH = 15
"""Column at which the text of a card's field begins."""


@dataclass(frozen=True)
class Card:
    """What a method is: one line, the fields of its card in order, and how to cite it (None where its file has no
    `BIBTEX`)."""

    title: str
    fields: dict[str, str]
    bibtex: str | None


def method_card(name: str) -> Card:
    """The card of a registered method, from the docstring of the file that defines it."""
    return read_card(sys.modules[resolve("methods", name).__module__])


def read_card(module: Any) -> Card:
    """First line and `Card` of a module's docstring, and its `BIBTEX`.

    A field is an indented name with its text beginning at column 15; lines indented that far go on with it, and a name
    that goes on in the next line does so, too.
    """
    text = module.__doc__ or ""
    title, _, body = text.partition("\n\n")
    fields: dict[str, str] = {}
    last = None
    for line in body.partition("Card\n")[2].splitlines():
        name, rest = line[:_WIDTH].strip(), line[_WIDTH:].strip()
        if not rest:
            continue
        if name and last is not None and last.endswith(" and"):  # a name in two lines
            fields = {f"{last} {name}" if key == last else key: said for key, said in fields.items()}
            last = f"{last} {name}"
            fields[last] += f" {rest}"
        elif name:
            last = name
            fields[last] = rest
        elif last is not None:
            fields[last] += f" {rest}"
    bibtex = getattr(module, "BIBTEX", None)
    return Card(" ".join(title.split()), fields, None if bibtex is None else str(bibtex).strip())
