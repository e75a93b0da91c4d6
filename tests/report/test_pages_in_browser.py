"""Every other page that commands write, in Chromium: nothing asked for, nothing wrong, nothing that axe objects to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import launched, opened
from command_line import run

pytestmark = pytest.mark.slow

PAGES = {
    "report.html": ["report", "{run}", "--out", "{page}"],
    "samples.html": ["gallery", "{run}", "{run}", "--out", "{page}"],
    "ranking/gallery.html": ["rank-dataset", "digits", "--limit", "64", "--out", "{folder}/ranking"],
    "compared.html": ["compare", "digits", "digits", "--out", "{page}"],
    "analysis/analysis.html": ["analyze", "scores", "digits", "--limit", "16", "--out", "{folder}/analysis"],
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


@pytest.mark.parametrize("name", list(PAGES))
def test_page_is_whole_in_itself_and_accessible(browser: Any, small: Path, tmp_path: Path, name: str) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="no axe: pip install axe-playwright-python"
    )
    page = tmp_path / name
    code, said = run(*(word.format(run=small, page=page, folder=tmp_path) for word in PAGES[name]))
    assert code == 0, said
    for width, scheme in ((1440, "light"), (390, "dark")):
        with opened(browser, page, width=width, color_scheme=scheme) as shown:
            assert shown.evaluate("document.documentElement.scrollWidth") == width
            found = axe.Axe().run(shown).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
