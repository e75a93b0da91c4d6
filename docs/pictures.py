"""Draw the pictures of the README and of docs/methods.md.

    python docs/pictures.py

docs/digits.png: real minority images, plain samples and JEPA-guided samples of the same seed. docs/methods.png: every
method on the same noise, with and without class labels. Samples are the first of the benchmark's first seed: those that
the board measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import minoritybench
from minoritybench.records import load_benchmark
from minoritybench.registry import entries
from minoritybench.report.pictures import contact_sheet, png_bytes

HERE = Path(__file__).parent
COLUMNS, ROWS, TILE, MARGIN, HEAD = 10, 6, 32, 24, 40
SHOWN, LABEL_WIDTH = 20, 90

Pixels = NDArray[np.uint8]


def samples(method: str, count: int, *, by_class: bool = False) -> list[Pixels]:
    """The first images of the benchmark's first seed."""
    seed = load_benchmark("digits").seeds[0]
    with tempfile.TemporaryDirectory() as folder:
        outcome = minoritybench.sample(method, Path(folder) / "out", n=count, seeds=(seed,), class_conditional=by_class)
        return [np.asarray(Image.open(outcome.out / row["file"])) for row in outcome.rows]


def beside(
    sheets: Mapping[str, Pixels], draw_more: Callable[[ImageDraw.ImageDraw], None], left: int = 0
) -> Image.Image:
    """Titled sheets of one size side by side on white; `left` pixels are kept free for `draw_more`."""
    height, width = next(iter(sheets.values())).shape[:2]
    size = (left + len(sheets) * (width + MARGIN) + MARGIN, height + HEAD + MARGIN)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for position, (title, sheet) in enumerate(sheets.items()):
        x = left + MARGIN + position * (width + MARGIN)
        draw.text((x, 10), title, fill="black", font=ImageFont.load_default(20))
        canvas.paste(Image.fromarray(sheet), (x, HEAD))
    draw_more(draw)
    return canvas


def digits() -> Image.Image:
    """Three panels: what is rare, plain sampling, guided sampling."""
    count = COLUMNS * ROWS
    members = [image.pixels for image in minoritybench.load_reference_set("digits").images()[:count]]
    panels = {
        "real digits, lowest JEPA-SCORE": members,
        "ancestral sampling": samples("adm", count),
        "JEPA guidance, same seeds": samples("jepa", count),
    }
    sheets = {title: contact_sheet(images, COLUMNS, tile=TILE) for title, images in panels.items()}
    return beside(sheets, lambda draw: None)


def methods() -> Image.Image:
    """A row a method, a column an image number: all rows of a panel begin with the same noise."""
    names = [name for name in entries("methods") if name not in ("cads", "minorityprompt")]  # these take prompts
    sheets = {}
    for title, by_class in (("without labels", False), ("with class labels", True)):
        images = [image for name in names for image in samples(name, SHOWN, by_class=by_class)]
        sheets[title] = contact_sheet(images, SHOWN, tile=TILE)
    row = next(iter(sheets.values())).shape[0] / len(names)

    def label(draw: ImageDraw.ImageDraw) -> None:
        for number, name in enumerate(names):
            draw.text((MARGIN, HEAD + (number + 0.3) * row), name, fill="black", font=ImageFont.load_default(18))

    return beside(sheets, label, left=LABEL_WIDTH)


def main() -> None:
    """Write both pictures."""
    for name, picture in (("digits", digits), ("methods", methods)):
        (HERE / f"{name}.png").write_bytes(png_bytes(np.asarray(picture())))


if __name__ == "__main__":
    main()
