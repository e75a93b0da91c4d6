"""What texts of filed documents may hold: they are shown in markdown, on the page of all boards and in terminals."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

LONGEST_TEXT = 1_000
"""Characters of a text for which nothing else is said."""

_MARKUP = re.compile(r"<[A-Za-z/!?][^\s>]{0,30}")
# Control characters, line separators, and what is invisible or turns the direction of the text that follows
# (https://trojansource.codes): code points, not Unicode categories, which differ between versions of Python.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def text_faults(document: Any, longest: Mapping[str, int] | None = None) -> Iterator[str]:
    """Texts of a JSON document that are too long, hold markup, or characters that cannot be seen; each fault names the
    field. `longest` gives the characters that a field may have where they are not `LONGEST_TEXT`."""
    for place, text in _texts(document):
        limit = (longest or {}).get(place, LONGEST_TEXT)
        if len(text) > limit:
            yield f"{place} has {len(text):,} characters, more than the {limit:,} allowed"
        if found := _MARKUP.search(text):
            yield f"{place} holds markup, {found.group()!r}: text fields are plain text"
        if found := _HIDDEN.search(text):
            yield f"{place} holds a character that cannot be seen, U+{ord(found.group()):04X}: text fields are one line"


def _texts(node: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a document with its field, keys of free-form fields among them."""
    if isinstance(node, str):
        yield place or "document", node
    elif isinstance(node, dict):
        for key, inner in node.items():
            yield f"a key in {place or 'document'}", key
            yield from _texts(inner, f"{place}.{key}".lstrip("."))
    elif isinstance(node, list):
        for number, inner in enumerate(node):
            yield from _texts(inner, f"{place}.{number}".lstrip("."))
