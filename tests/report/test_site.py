"""The leaderboard page as a text: what stands in it, what stays out, how large it may become."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from chromium import launched, opened
from forged_records import few
from markupsafe import Markup

from minoritybench.leaderboards import find_records
from minoritybench.records import RunRecord, load_record
from minoritybench.references import both_ends, load_reference_set
from minoritybench.report import site
from minoritybench.report.cards import method_card, read_card
from minoritybench.report.pages import prose, render
from minoritybench.report.plots import Point, interval_mark, scatter_svg
from minoritybench.report.site import index_html
from minoritybench.report.tables import board_data

EVIL = "<script>alert('in')</script><img src=x onerror=alert(1)>"
INDEX = Path(__file__).parents[2] / "leaderboards" / "index.html"


@pytest.fixture
def page_of(built: Path) -> Callable[[RunRecord], str]:
    """The page of one record, drawn with the sheet of the filed one."""
    results = built / "leaderboards" / "results"
    [path] = find_records(results)

    def draw(record: RunRecord) -> str:
        board = board_data(few(), [record])
        return index_html([board], results, {record.id: path.parent})

    return draw


@pytest.fixture
def record(small: Path) -> RunRecord:
    return load_record(small / "record.json")


def spoilt(record: RunRecord) -> RunRecord:
    """Markup in every text of a record that the page shows and that is free."""
    method = record.method.model_copy(update={"name": "ddim", "params": {"stochasticity": EVIL}, "preset": EVIL})
    machine = record.environment.model_copy(update={"device": EVIL})
    return record.model_copy(
        update={"command": f"evaluate # {EVIL}", "method": method, "warnings": [EVIL], "environment": machine}
    )


def test_markup_in_a_record_is_text(page_of: Callable[[RunRecord], str], record: RunRecord) -> None:
    page = page_of(spoilt(record))
    assert page.count("&lt;script&gt;alert(") >= 5
    assert "<img src=x" not in page
    assert len(re.findall(r"<script", page)) == 1


@pytest.mark.slow
def test_markup_in_a_record_is_text_to_a_browser(
    page_of: Callable[[RunRecord], str], record: RunRecord, tmp_path: Path
) -> None:
    file = tmp_path / "page.html"
    file.write_text(page_of(spoilt(record)))
    with launched() as browser, opened(browser, file) as page:  # a dialog, a request or an error would fail
        assert f"ddim (preset={EVIL}, stochasticity={EVIL})" in page.locator("#digits th").all_text_contents()
        assert page.locator("main script, main img[src=x]").count() == 0


def test_the_policy_names_the_only_script_and_style_and_nothing_is_fetched() -> None:
    text = INDEX.read_text("utf-8")
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)
    assert re.fullmatch(
        r"default-src 'none'; img-src data:; style-src 'sha256-\S+'; script-src 'sha256-\S+';"
        r" base-uri 'none'; form-action 'none'",
        policy,
    )
    assert not re.search(r"<link|@import|url\(|fetch\(|XMLHttpRequest|<iframe| style=|\son[a-z]+=", text)


def test_an_element_that_got_past_escaping_is_no_part_of_the_policy(tmp_path: Path) -> None:
    bad = "alert('in')"
    page = render(
        "samples.html", "gallery", network=Markup(f"<script>{bad}</script>"), rows=[], labels=[], seed=1, small=1
    )
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    assert f"<script>{bad}</script>" in page
    assert "script-src" not in policy
    assert "style-src 'sha256-" in policy
    assert "data-own" not in page


def test_the_page_stays_small_however_many_sheets_are_filed(
    page_of: Callable[[RunRecord], str], record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert INDEX.stat().st_size < 2_000_000
    whole = page_of(record)
    assert "data:image/png" in whole
    for limit in ("LARGEST_SHEET", "ALL_SHEETS"):
        with monkeypatch.context() as patched:
            patched.setattr(site, limit, 100)
            linked = page_of(record)
        assert "data:image/png" not in linked
        assert re.search(r'<a href="results/digits/adm/\w+/sheet.png">', linked)


def test_methods_have_their_card_their_citation_and_their_rows(
    page_of: Callable[[RunRecord], str], record: RunRecord
) -> None:
    page = page_of(record)
    [section, *others] = page.split('<section class="method"')[1:]
    assert "@inproceedings{ho2020denoising" in section
    assert record.id in section
    assert record.command in section
    assert all("No measured row." in other for other in others)


def test_every_method_of_ours_can_be_cited_with_the_arxiv_number_of_its_card() -> None:
    for name in ("adm", "bns", "cads", "ddim", "jepa", "mg", "minorityprompt", "sehwag", "sgms"):
        card = method_card(name)
        assert card.bibtex is not None
        numbers = re.findall(r"eprint = \{(\S+)\}", card.bibtex)
        assert numbers
        assert set(numbers) <= set(re.findall(r"arXiv:(\d{4}\.\d{5})", card.fields["Paper"]))
        assert card.bibtex.count("{") == card.bibtex.count("}")


def test_prose_shows_code_and_links_and_no_markup() -> None:
    assert prose("see `a<b`, arXiv:2605.24631v1 & <b>") == (
        'see <code>a&lt;b</code>, <a href="https://arxiv.org/abs/2605.24631v1" rel="noreferrer">arXiv:2605.24631v1</a>'
        " &amp; &lt;b&gt;"
    )
    assert prose("one ` alone") == "one ` alone"


def test_a_card_is_read_field_by_field() -> None:
    text = "One line,\nor two.\n\nCard\n    Paper      A, B\n               and C\n    Paper and  x\n    code       y\n"
    card = read_card(SimpleNamespace(__doc__=text))
    assert card.title == "One line, or two."
    assert card.fields == {"Paper": "A, B and C", "Paper and code": "x y"}
    assert card.bibtex is None


@pytest.mark.parametrize("name", ["digits", "digits16"])
def test_both_ends_of_a_set_lie_at_its_ends(name: str) -> None:
    found = both_ends(name, 24)
    assert found is not None
    lowest, highest = (ends.members["score_deflated"] for ends in found)
    facts = load_reference_set(name).recipe.statistics
    assert lowest.is_monotonic_increasing
    assert highest.is_monotonic_decreasing
    assert (lowest.iloc[0], highest.iloc[0]) == pytest.approx((facts["min"], facts["max"]))
    assert len(highest) == len(found[1].images()) == 24
    assert both_ends("celeba-dinov2-vits14", 24) is None


def test_an_interval_is_drawn_in_the_scale_of_its_column() -> None:
    path = re.findall(r'd="M([\d.]+) 4H([\d.]+)M([\d.]+) 0V8"', interval_mark((2.0, 3.0, 6.0), (0.0, 10.0)))
    assert [float(part) for part in path[0]] == pytest.approx([2 + 96 * 0.2, 2 + 96 * 0.6, 2 + 96 * 0.3], abs=0.06)
    assert "M2.0 4H2.0M2.0 0V8" in interval_mark((1.0, 1.0, 1.0), (1.0, 1.0))


def circles(svg: str) -> Iterator[tuple[float, float]]:
    return ((float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg))


def test_a_scatter_keeps_the_order_of_its_numbers_and_its_names_apart() -> None:
    numbers = [(1.0, 5.0), (2.0, 5.01), (4.0, 5.02), (3.0, -1.0)]
    points = [Point(f"<{i}>", "m", (x, x, x), (y - 0.1, y, y + 0.1)) for i, (x, y) in enumerate(numbers)]
    svg = str(scatter_svg(points, x_label="x", y_label="y", caption="c"))
    drawn = dict(zip(_names(svg), circles(svg), strict=True))
    for i, (x, y) in enumerate(numbers):
        for j, (other_x, other_y) in enumerate(numbers):
            assert (drawn[f"&lt;{i}&gt;"][0] < drawn[f"&lt;{j}&gt;"][0]) == (x < other_x)
            assert (drawn[f"&lt;{i}&gt;"][1] > drawn[f"&lt;{j}&gt;"][1] + 1) == (y < other_y - 1)
    heights = sorted(float(y) for y in re.findall(r'<text class="name" x="[\d.]+" y="([\d.]+)"', svg))
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 15


def _names(svg: str) -> list[Any]:
    return re.findall(r'<text class="name"[^>]*>([^<]+)</text>', svg)
