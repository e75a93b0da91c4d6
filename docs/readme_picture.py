"""Draw docs/digits.png: real minority images, plain samples and JEPA-guided samples of the same seed.

    python docs/readme_picture.py

The samples are the first of the benchmark's first seed: the ones that the board measured.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import minoritybench
from minoritybench.records import load_benchmark
from minoritybench.report.pictures import contact_sheet, png_bytes

COLUMNS, ROWS, TILE, MARGIN, HEAD = 10, 6, 32, 24, 40
TARGET = Path(__file__).parent / "digits.png"


def samples(method: str) -> list[NDArray[np.uint8]]:
    """The first images of the benchmark's first seed."""
    seed = load_benchmark("digits").seeds[0]
    with tempfile.TemporaryDirectory() as folder:
        outcome = minoritybench.sample(method, Path(folder) / "out", n=COLUMNS * ROWS, seeds=(seed,))
        return [np.asarray(Image.open(outcome.out / row["file"])) for row in outcome.rows]


def main() -> None:
    """Three labelled panels side by side."""
    members = [image.pixels for image in minoritybench.load_reference_set("digits").images()[: COLUMNS * ROWS]]
    panels = {
        "real digits, lowest JEPA-SCORE": members,
        "ancestral sampling": samples("adm"),
        "JEPA guidance, same seeds": samples("jepa"),
    }
    sheets = {title: contact_sheet(images, COLUMNS, tile=TILE) for title, images in panels.items()}
    height, width = next(iter(sheets.values())).shape[:2]
    canvas = Image.new("RGB", (3 * width + 4 * MARGIN, height + HEAD + MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    for position, (title, sheet) in enumerate(sheets.items()):
        left = MARGIN + position * (width + MARGIN)
        draw.text((left, 10), title, fill="black", font=ImageFont.load_default(20))
        canvas.paste(Image.fromarray(sheet), (left, HEAD))
    TARGET.write_bytes(png_bytes(np.asarray(canvas)))


if __name__ == "__main__":
    main()
