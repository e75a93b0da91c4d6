"""The study page answered in Chromium by mouse and keyboard: what is saved was chosen, and the tally finds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chromium import launched, opened
from toy_runs import drawn

from minoritybench.study import StudyKey, build_study
from minoritybench.study_tally import tally

pytestmark = pytest.mark.slow

PROMPTS = ("a <script>alert(1)</script> seven & more", "a thin zero", "a wide two")


@pytest.fixture
def study(tmp_path: Path) -> StudyKey:
    runs = (
        drawn(tmp_path / "plain", prompts=PROMPTS),
        drawn(tmp_path / "guided", "jepa", shade=100, prompts=PROMPTS, eta=2.0),
    )
    return build_study(runs, tmp_path / "page.html", tmp_path / "key.json", pairs=6)


def picked(pair: int, question: str) -> str:
    """What the script answers: left for a third of the pairs, others for either question."""
    return "left" if (pair + (question == "atypicality")) % 3 == 0 else "right"


def answer(page: Any, saved: Path, *, by_keyboard: bool) -> None:
    for field in page.locator("fieldset").all():
        side = picked(int(field.get_attribute("data-pair")), field.get_attribute("data-question"))
        if by_keyboard:
            field.get_by_role("radio").first.focus()
            page.keyboard.press("Space" if side == "left" else "ArrowRight")
        else:
            field.get_by_text(side, exact=True).click()
    assert page.get_by_role("status").text_content() == "12 of 12 questions answered"
    page.get_by_role("textbox").fill("Ann <b>" if by_keyboard else "Bo")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Save answers").click()
    waiting.value.save_as(saved)


def test_the_tally_is_what_was_chosen_by_mouse_and_by_keyboard(study: StudyKey, tmp_path: Path) -> None:
    files = [tmp_path / "ann.json", tmp_path / "bo.json"]
    with launched() as browser:
        for file in files:
            with opened(browser, tmp_path / "page.html", color_scheme="dark", width=390) as page:
                answer(page, file, by_keyboard=file is files[0])
    assert [json.loads(file.read_text())["rater"] for file in files] == ["Ann <b>", "Bo"]
    facts = tally(files, [tmp_path / "key.json"])
    for name in ("quality", "atypicality"):
        for_a = [(picked(pair.pair, name) == "left") == (pair.left == "A") for pair in study.pairs]
        assert facts["questions"][name]["answers"] == 12
        assert facts["questions"][name]["preferred"]["A"] == pytest.approx(sum(for_a) / 6)


def test_unanswered_questions_are_told_before_they_are_left_out(study: StudyKey, tmp_path: Path) -> None:
    with launched() as browser, opened(browser, tmp_path / "page.html") as page:
        downloads: list[Any] = []
        page.on("download", lambda found: downloads.append(found))
        status, save = page.get_by_role("status"), page.get_by_role("button", name="Save answers")
        fields = page.locator("fieldset").all()
        page.get_by_role("textbox").fill("Ann")
        for left, field in ((11, fields[0]), (10, fields[3])):  # an answer in between makes the next press a first one
            field.get_by_text("left", exact=True).click()
            save.click()
            told = f"{left} of 12 questions unanswered; to save without them, press Save answers again"
            assert status.text_content() == told
            assert fields[1].get_by_role("radio").first.evaluate("radio => radio === document.activeElement")
        with page.expect_download() as waiting:
            save.click()
        waiting.value.save_as(tmp_path / "ann.json")
        assert len(downloads) == 1
        assert status.text_content() == "2 of 12 questions answered"
    saved = json.loads((tmp_path / "ann.json").read_text())["answers"]
    assert [(one["pair"], one["choice"]) for one in saved] == [(1, "left"), (2, "left")]
    assert tally([tmp_path / "ann.json"], [tmp_path / "key.json"])["questions"]["quality"]["answers"] == 1


def test_nothing_is_saved_without_a_name_and_axe_finds_nothing(study: StudyKey, tmp_path: Path) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="no axe: pip install axe-playwright-python"
    )
    with launched() as browser, opened(browser, tmp_path / "page.html") as page:
        page.get_by_role("button", name="Save answers").click()
        assert page.get_by_role("textbox").evaluate("box => box.validity.valueMissing")
        assert page.locator(".prompt").filter(has_text="alert(1)").first.is_visible()
        found = axe.Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
