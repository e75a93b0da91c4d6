"""The leaderboard page as people use it: sorted, filtered, looked into, by keyboard, in the dark, with scripts off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import launched, opened

from minoritybench.records import load_benchmark

pytestmark = pytest.mark.slow

INDEX = Path(__file__).parents[2] / "leaderboards" / "index.html"
FIRST = "#digits table.sortable >> nth=0"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    with opened(browser, INDEX) as found:
        yield found


def column(page: Any, name: str) -> tuple[int, Any]:
    """Position and head of a column of the first table."""
    heads = page.locator(FIRST).locator("thead th")
    texts = [text.partition("\u00a0")[0].strip() for text in heads.all_text_contents()]
    position = texts.index(name)
    return position, heads.nth(position)


def values(page: Any, position: int) -> list[float]:
    cells = page.locator(FIRST).locator(f"tbody tr td:nth-of-type({position})")
    return [float(value) for value in cells.evaluate_all("cells => cells.map(cell => cell.dataset.v)")]


def test_a_head_sorts_by_full_precision_better_end_first(page: Any) -> None:
    for name, better_first in (("JEPA-SCORE", False), ("recall", True), ("ms/sample", False)):
        position, head = column(page, name)
        before = values(page, position)
        head.get_by_role("button").click()
        assert values(page, position) == sorted(before, reverse=better_first)
        assert head.get_attribute("aria-sort") == ("descending" if better_first else "ascending")
        head.get_by_role("button").click()
        assert values(page, position) == sorted(before, reverse=not better_first)
        assert page.locator(FIRST).locator("[aria-sort]").count() == 1
        assert name in page.locator("#status").text_content()


def test_rows_without_a_value_stay_last_and_names_sort_as_text(page: Any) -> None:
    page.locator(FIRST).locator("tbody tr:nth-child(3) td:nth-of-type(1)").evaluate("cell => { cell.dataset.v = ''; }")
    without = page.locator(FIRST).locator("tbody tr:nth-child(3) th").text_content()
    _, head = column(page, "FD (digits-classifier)")
    for _ in range(2):
        head.get_by_role("button").click()
        assert page.locator(FIRST).locator("tbody tr:last-child th").text_content() == without
    _, head = column(page, "method")
    head.get_by_role("button").click()
    names = page.locator(FIRST).locator("tbody th").all_text_contents()
    assert names == sorted(names)


def test_filters_hide_rows_points_pictures_and_sections_alike(page: Any) -> None:
    everywhere = page.locator("[data-method=jepa]")
    kinds = {element: page.locator(f"{element}[data-method=jepa]").count() for element in ("tr", "g", "li", "section")}
    assert min(kinds.values()) > 0
    total = page.locator("section.board tbody tr").count()
    gone = page.locator("section.board tbody tr[data-method=jepa]").count()
    page.get_by_role("checkbox", name="jepa", exact=True).uncheck()
    assert everywhere.locator("visible=true").count() == 0
    assert page.locator("#status").text_content() == f"{total - gone} of {total} rows shown"
    assert page.locator("tr[data-method=adm]").first.is_visible()
    page.get_by_role("button", name="Untick all methods").click()
    assert page.locator("tr[data-method=adm]").locator("visible=true").count() == 0
    page.get_by_role("checkbox", name="cads", exact=True).check()
    assert page.locator("#digits-t2i tbody tr").locator("visible=true").first.locator("th").text_content() == "cads"
    page.get_by_role("checkbox", name="CelebA 64", exact=True).uncheck()
    assert not page.locator("#celeba64").is_visible()
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function("document.getElementById('celeba64').hidden === false")
    assert page.locator("section.board tbody tr").locator("visible=true").count() == total


def test_a_sheet_opens_beside_plain_sampling_and_arrows_go_on(page: Any) -> None:
    gallery = page.locator("#digits [data-gallery]").first
    sheets = gallery.get_by_role("button")
    labels = gallery.locator("figcaption").all_text_contents()
    assert labels[0].startswith("adm")
    sheets.nth(2).click()
    viewer = page.get_by_role("dialog")
    assert viewer.locator("figcaption").all_text_contents() == [labels[2], labels[0]]
    page.keyboard.press("ArrowRight")
    assert viewer.locator("figcaption").all_text_contents() == [labels[3], labels[0]]
    viewer.get_by_role("button", name="Previous").click()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert viewer.locator("figcaption").all_text_contents() == [labels[0]]
    widths = viewer.locator("img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert min(widths) > 0
    page.keyboard.press("Escape")
    assert not viewer.is_visible()
    assert sheets.nth(2).evaluate("button => button === document.activeElement")


def test_a_filtered_gallery_leaves_out_what_is_hidden(page: Any) -> None:
    page.get_by_role("checkbox", name="bns", exact=True).uncheck()
    gallery = page.locator("#digits [data-gallery]").first
    gallery.get_by_role("button").first.click()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("dialog").locator("figcaption").first.text_content().startswith("ddim")


def test_a_table_without_plain_sampling_is_set_beside_that_of_its_board(page: Any) -> None:
    gallery = page.locator("#digits h4:text-is('Other settings, not ranked') + [data-gallery]")
    label = gallery.locator("figcaption").first.text_content()
    gallery.get_by_role("button").first.click()
    shown = page.get_by_role("dialog").locator("figcaption").all_text_contents()
    assert shown == [label, page.locator("#digits [data-plain] figcaption").first.text_content()]


def test_what_holds_nothing_any_more_goes_with_its_heading(page: Any) -> None:
    heading = page.get_by_role("heading", name="Guide and judge digits-vicreg, not ranked").first
    assert heading.is_visible()
    for name in ("adm", "jepa"):
        page.get_by_role("checkbox", name=name, exact=True).uncheck()
    assert not heading.is_visible()
    assert page.get_by_role("heading", name="What rarity costs").first.is_visible()
    page.get_by_role("button", name="Untick all methods").click()
    assert not page.get_by_role("heading", name="What rarity costs").first.is_visible()


def test_a_link_to_what_a_filter_hides_shows_it(page: Any) -> None:
    page.get_by_role("checkbox", name="CelebA 64", exact=True).uncheck()
    page.get_by_role("checkbox", name="jepa", exact=True).uncheck()
    page.get_by_role("navigation").get_by_role("link", name="CelebA 64").click()
    page.wait_for_function("document.getElementById('celeba64').getBoundingClientRect().top < 10")
    assert page.get_by_role("checkbox", name="jepa", exact=True).is_checked()
    page.evaluate("location.hash = '%E0%A4%A'")  # no such place, and nothing goes wrong


def test_everything_can_be_done_by_keyboard(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.locator("#filters input[name=method]").first.focus()
    page.keyboard.press("Space")
    assert page.locator("#digits tr[data-method=adm]").first.is_hidden()
    position, head = column(page, "coverage")
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    outline = head.get_by_role("button").evaluate("button => getComputedStyle(button).outlineStyle")
    assert outline == "solid"
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName + '.' + document.activeElement.className"))
    assert {"BUTTON.", "DIV.wide", "A."} <= reached
    assert position > 0


def test_a_record_s_link_unfolds_what_made_it(page: Any) -> None:
    link = page.locator(FIRST).locator("tbody tr").first.get_by_role("link")
    target = link.get_attribute("href")
    assert not page.locator(target).is_visible()
    link.click()
    assert page.locator(target).is_visible()
    page.wait_for_function(
        "id => document.querySelector(id).closest('details').getBoundingClientRect().top >= 0", arg=target
    )
    assert "minoritybench evaluate --method jepa" in page.locator(target).text_content()
    folder = page.locator(target).get_by_role("link").get_attribute("href")
    assert (INDEX.parent / folder).is_file()


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light")])
def test_axe_finds_nothing_serious(browser: Any, width: int, scheme: str) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="no axe: pip install axe-playwright-python"
    )
    with opened(browser, INDEX, width=width, color_scheme=scheme) as page:
        for folded in ("#digits .notes", "#method-jepa details >> nth=0"):
            page.locator(folded).evaluate("details => { details.open = true; }")
        found = axe.Axe().run(page).response["violations"]
    assert [(one["id"], one["impact"], one["nodes"][0]["html"]) for one in found] == []


def test_dark_mode_is_dark_and_a_phone_never_scrolls_the_whole_page_sideways(browser: Any) -> None:
    with opened(browser, INDEX, width=390, color_scheme="dark") as page:
        shade = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
        assert max(shade) < 60
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        region = page.locator("#digits .wide").first
        for name in page.locator("#digits .scatter >> nth=0").locator("text.name").all():
            box = name.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 390
        assert region.evaluate("region => region.scrollWidth > region.clientWidth")
        region.evaluate("region => region.scrollTo(400, 0)")
        assert page.locator(FIRST).locator("tbody th").first.bounding_box()["x"] >= 0  # the method stays in sight


def test_without_javascript_tables_are_sorted_and_pictures_shown(browser: Any) -> None:
    with opened(browser, INDEX, java_script_enabled=False) as page:
        assert page.get_by_role("button").count() == 0
        assert not page.locator("#filters").is_visible()
        rows = page.locator("#digits table >> nth=0").locator("tbody tr td:first-of-type")
        distances = [float(row.get_attribute("data-v")) for row in rows.all()]
        assert distances == sorted(distances)
        assert len(distances) > 5
        assert page.locator("#digits .sheets img").first.is_visible()
        page.locator("#method-jepa summary").first.click()
        assert page.locator("#method-jepa pre").is_visible()


def test_what_the_page_says_is_what_the_records_say(page: Any) -> None:
    spec = load_benchmark("digits")
    assert f"{spec.n:,} samples a seed" in page.locator("#digits > p").first.text_content()
    assert page.locator("#celeba64").get_by_text("No measured row yet.").is_visible()
    assert page.locator("#celeba64 .published table").first.locator("strong, u").count() == 0
