"""Captions: attributes of drawn images, thirds of the real ones."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from minoritybench.embedded.captions import (
    ATTRIBUTES,
    VOCABULARY,
    all_captions,
    caption,
    captions,
    digit_of,
    measure,
    thresholds,
)
from minoritybench.embedded.data import load_doubled_split


def bar(lean: float = 0.0, half_width: float = 1.5, level: int = 255) -> NDArray[np.uint8]:
    """A stroke from row 2 to row 13 whose centre moves `lean` pixels to the right for each pixel upwards."""
    image = np.zeros((16, 16), np.uint8)
    for row in range(2, 14):
        centre = 7.5 + lean * (7.5 - row)
        image[row, np.abs(np.arange(16) - centre) <= half_width] = level
    return image


def test_ink_is_the_mean_brightness() -> None:
    images = np.stack([np.full((16, 16), 51, np.uint8), bar(half_width=1.5), bar(half_width=1.5, level=51)])
    assert measure(images)["ink"].tolist() == pytest.approx([0.2, 12 * 4 / 256, 12 * 4 / 256 / 5])


@pytest.mark.parametrize("lean", [-0.5, 0.0, 0.5])
def test_slant_is_the_lean_of_a_stroke(lean: float) -> None:
    assert measure(bar(lean)[None])["slant"][0] == pytest.approx(lean, abs=0.05)


def test_width_is_the_spread_without_the_slant() -> None:
    upright, leaning, wide = (measure(image[None])["width"][0] for image in (bar(), bar(1.0), bar(half_width=3.5)))
    assert upright == pytest.approx(np.std([-1.5, -0.5, 0.5, 1.5]))
    assert leaning == pytest.approx(np.std([-1, 0, 1]))  # its rows are centred on pixels, three of them lit
    assert wide == pytest.approx(np.std(np.arange(8)))


def test_an_empty_image_has_no_attributes() -> None:
    measured = measure(np.zeros((1, 16, 16), np.uint8))
    assert {name: values.tolist() for name, values in measured.items()} == {name: [0.0] for name in ATTRIBUTES}


def test_captions_follow_drawn_changes() -> None:
    train = load_doubled_split("train")
    one = train.images[np.flatnonzero(train.labels == 1)[0]]
    faint = (one * 0.3).astype(np.uint8)
    assert "thin" in captions(faint[None], [1])[0]
    assert captions(bar(0.6)[None], [1])[0].split()[-2:] == ["slanted", "one"]
    assert captions(bar(-0.6)[None], [1])[0].split()[-2:] == ["backslanted", "one"]


def test_a_third_of_each_digit_has_each_word() -> None:
    train = load_doubled_split("train")
    texts = captions(train.images, train.labels)
    assert [digit_of(text) for text in texts] == train.labels.tolist()
    for digit in range(10):
        mine = [text.split() for text in texts if digit_of(text) == digit]
        for word in ("thin", "bold", "narrow", "wide", "backslanted", "slanted"):
            assert sum(word in words for words in mine) / len(mine) == pytest.approx(1 / 3, abs=0.01)
    assert texts[:3] == ["a thin wide slanted zero", "a narrow one", "a bold slanted two"]
    assert thresholds()["ink"].shape == (10, 2)


def test_the_order_of_words_and_the_article() -> None:
    assert caption(7, [2, 1, 2]) == "a bold slanted seven"
    assert caption(8, [1, 1, 1]) == "an eight"
    assert caption(8, [0, 0, 0]) == "a thin narrow backslanted eight"
    assert len(set(all_captions())) == 270
    assert {word for text in all_captions() for word in text.split()} == set(VOCABULARY)
