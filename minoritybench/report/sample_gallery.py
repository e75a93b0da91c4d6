"""Samples of several methods side by side: a row a prompt, a column a method, the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minoritybench.errors import BadInputError
from minoritybench.report.drawn import image_at, labels_of, load_run, refuse_unlike
from minoritybench.report.pages import refuse_other_file, render
from minoritybench.report.pictures import data_uri
from minoritybench.store import write_text

_COMMAND = "gallery"
_LARGEST = 256


def write_sample_gallery(folders: Sequence[Path], out: Path, seed: int | None, rows: int) -> int:
    """Write a self-contained page of the first `rows` images of a seed (default: the first drawn) and return how many
    rows it has. Errors (exit 2): folders that hold no finished samples or whose generator, seeds or prompts differ, a
    seed that was not drawn, and a file in the place of the page that is none."""
    refuse_other_file(out, _COMMAND)
    runs = [load_run(folder) for folder in folders]
    for run in runs[1:]:
        refuse_unlike(run, runs[0])
    seeds = list(dict.fromkeys(seed for seed, _ in runs[0].rows))
    if seed is not None and seed not in seeds:
        raise BadInputError(f"--seed {seed}: the runs have the seeds {', '.join(map(str, seeds))}")
    shown = seeds[0] if seed is None else seed
    places = sorted(place for place in runs[0].rows if place[0] == shown)[:rows]
    images = [[image_at(run, place, _LARGEST) for run in runs] for place in places]
    page = render(
        "samples.html",
        _COMMAND,
        network=runs[0].plan["generator"]["name"],
        seed=shown,
        small=max(images[0][0].shape) < _LARGEST,
        labels=labels_of(runs),
        rows=[
            {"title": runs[0].prompts[place] or f"image {place[1]}", "uris": [data_uri(image) for image in row]}
            for place, row in zip(places, images, strict=True)
        ],
    )
    write_text(out, page)
    return len(places)
