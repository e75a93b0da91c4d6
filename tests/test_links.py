"""Links of the documentation and of the page of all boards lead to files and headings that are there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [
        *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SUBMITTING", "CHANGELOG")),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "leaderboards").glob("*.md"),
        *(ROOT / "minoritybench").rglob("CARD.md"),
    ]
)
INDEX = ROOT / "leaderboards" / "index.html"
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//")  # a scheme or another host


def without_code(text: str) -> str:
    """Markdown less its fenced blocks."""
    return re.sub(r"^(```|~~~).*?^\1[ ]*$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """What GitHub makes of the headings: lower case, without punctuation, dashes for spaces, -1 for the second."""
    found: set[str] = set()
    seen: Counter[str] = Counter()
    for heading in re.findall(r"^#{1,6} +(.*?)[ #]*$", without_code(text), re.MULTILINE):
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def links(text: str) -> list[str]:
    """Targets of inline links and pictures, of link definitions and of HTML."""
    plain = re.sub(r"`[^`]*`", "", without_code(text))
    inline = re.findall(r"\]\(\s*<?([^\s)>]+)", plain)
    defined = re.findall(r"^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)", plain, re.MULTILINE)
    return [*inline, *defined, *re.findall(r'<[a-z][^>]*\b(?:href|src)="([^"]*)"', plain)]


def broken(page: Path, targets: list[str]) -> Iterator[str]:
    """Those of a page's links within the repository that lead nowhere."""
    for target in targets:
        if _ELSEWHERE.match(target):
            continue
        name, _, anchor = unquote(target).partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file.read_text("utf-8"))):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert list(broken(page, links(page.read_text("utf-8")))) == []


def test_the_pages_are_found_and_have_links() -> None:
    assert {"README.md", "CARD.md", "digits.md", "uncertainty.md"} <= {page.name for page in PAGES}
    assert "CONTRIBUTING.md#recipes" in links((ROOT / "README.md").read_text("utf-8"))


def test_the_page_of_all_boards_leads_to_files() -> None:
    page = INDEX.read_text("utf-8")
    targets = [target for target in re.findall(r'<a\b[^>]*\bhref="([^"]*)"', page) if not target.startswith("#")]
    assert any(target.endswith("/record.json") for target in targets)
    assert list(broken(INDEX, targets)) == []


def test_links_that_lead_nowhere_are_told_from_those_that_do(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# What `check` *does*, and why\n## Twice\n## Twice\n```sh\n# no heading [x](no-link)\n```\n"
        "[a](#what-check-does-and-why) [b](#twice-1) ![c](page.md#twice) [d](https://example.org/x#y) `[e](code)`\n"
        "[f](#no-heading-xno-link) [g](gone.md) [h](page.md#twice-2) [k](.)\n\n[l]: also-gone.md\n"
        '<a href="gone.html">m</a>\n'
    )
    found = list(broken(page, links(page.read_text())))
    assert found == ["#no-heading-xno-link", "gone.md", "page.md#twice-2", "also-gone.md", "gone.html"]
