"""Draw docs/digits.png: real minority images, plain samples and JEPA-guided samples of the same seeds.

    python docs/readme_picture.py

Needs the finished default runs of `minoritybench evaluate --method adm` and `--method jepa`; makes them if absent.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from minoritybench.evaluation import EvaluateRequest, prepare_job, run_job
from minoritybench.references import load_reference_set
from minoritybench.report.pictures import contact_sheet, png_bytes
from minoritybench.sampling import SampleRequest

COLUMNS, ROWS, TILE, MARGIN, HEAD = 10, 6, 32, 24, 40
TARGET = Path(__file__).parent / "digits.png"


def samples(method: str) -> list[NDArray[np.uint8]]:
    """The first images of the first seed of a method's default run."""
    job = prepare_job(EvaluateRequest(SampleRequest(method)))
    run_job(job)
    rows = json.loads((job.out / "samples" / "samples.json").read_text())[: COLUMNS * ROWS]
    return [np.asarray(Image.open(job.out / "samples" / row["file"])) for row in rows]


def main() -> None:
    """Three labelled panels side by side."""
    members = [image.pixels for image in load_reference_set("digits").images()[: COLUMNS * ROWS]]
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
