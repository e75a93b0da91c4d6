"""Samples of several methods side by side: a row a prompt, a column a method, the same seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minoritybench.data.source import decode_rgb
from minoritybench.errors import BadInputError
from minoritybench.given_samples import SAMPLES_FILE, SAMPLES_FOLDER
from minoritybench.report.pages import generator_of, refuse_other_file, render
from minoritybench.report.pictures import Pixels, data_uri, thumbnail
from minoritybench.store import PLAN_FILE, read_json, sha256_bytes, write_text

_COMMAND = "gallery"
_LARGEST = 256


@dataclass(frozen=True)
class DrawnRun:
    """An output folder of `sample` or `evaluate --method`: its plan, where its images lie, and their manifest rows by
    seed and index."""

    folder: Path
    plan: Mapping[str, Any]
    images: Path
    rows: Mapping[tuple[int, int], Mapping[str, Any]]

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.plan["method"]["name"])

    @property
    def settings(self) -> dict[str, Any]:
        """What may tell two runs of one method apart."""
        method, guide = self.plan["method"], self.plan.get("guide") or {}
        text = {key: value for key, value in self.plan.get("text", {}).items() if key != "prompts_sha256"}
        conditional = self.plan.get("class_conditional", False)
        own = {"preset": method["preset"], "guide": guide.get("name"), "class_conditional": conditional}
        return {**method["params"], **own, **text}

    @property
    def prompts(self) -> dict[tuple[int, int], str | None]:
        """Prompt of every image; None where there are none."""
        return {place: row.get("prompt") for place, row in self.rows.items()}


def write_sample_gallery(folders: Sequence[Path], out: Path, seed: int | None, rows: int) -> int:
    """Write a self-contained page of the first `rows` images of a seed (default: the first drawn) and return how many
    rows it has. Errors (exit 2): folders that hold no finished samples or whose generator, seeds or prompts differ, a
    seed that was not drawn, and a file in the place of the page that is none."""
    refuse_other_file(out, _COMMAND)
    runs = [_load(folder) for folder in folders]
    for run in runs[1:]:
        _refuse_unlike(run, runs[0])
    seeds = list(dict.fromkeys(seed for seed, _ in runs[0].rows))
    if seed is not None and seed not in seeds:
        raise BadInputError(f"--seed {seed}: the runs have the seeds {', '.join(map(str, seeds))}")
    shown = seeds[0] if seed is None else seed
    places = sorted(place for place in runs[0].rows if place[0] == shown)[:rows]
    images = [[_image(run, place) for run in runs] for place in places]
    page = render(
        "samples.html",
        generator=generator_of(_COMMAND),
        network=runs[0].plan["generator"]["name"],
        seed=shown,
        small=max(images[0][0].shape) < _LARGEST,
        labels=_labels(runs),
        rows=[
            {"title": runs[0].prompts[place] or f"image {place[1]}", "uris": [data_uri(image) for image in row]}
            for place, row in zip(places, images, strict=True)
        ],
    )
    write_text(out, page)
    return len(places)


def _load(folder: Path) -> DrawnRun:
    images = folder / SAMPLES_FOLDER if (folder / SAMPLES_FOLDER / SAMPLES_FILE).is_file() else folder
    if not (folder / PLAN_FILE).is_file() or not (images / SAMPLES_FILE).is_file():
        raise BadInputError(f"{folder} holds no finished output of `sample` or `evaluate --method`")
    plan, rows = read_json(folder / PLAN_FILE), read_json(images / SAMPLES_FILE)
    try:
        listed = {(int(row["seed"]), int(row["index"])): row for row in rows if row["file"] and row["sha256"]}
        run = DrawnRun(folder, plan, images, listed)
        run.settings, run.plan["generator"]["name"]  # a plan without them is none of ours
    except (TypeError, KeyError, ValueError, AttributeError):
        raise BadInputError(f"{folder}: {PLAN_FILE} or {SAMPLES_FILE} is not one that minoritybench wrote") from None
    if not listed:
        raise BadInputError(f"{folder}: {SAMPLES_FILE} lists no image")
    return run


def _refuse_unlike(run: DrawnRun, first: DrawnRun) -> None:
    seeds, other = ({seed for seed, _ in one.rows} for one in (run, first))
    if seeds != other:
        raise BadInputError(f"{run.folder} has the seeds {sorted(seeds)}, {first.folder} {sorted(other)}")
    if run.prompts != first.prompts:
        raise BadInputError(f"{run.folder} was not drawn for the same prompts as {first.folder}, or not as many")
    if run.plan["generator"] != first.plan["generator"]:
        raise BadInputError(f"{run.folder} was drawn by another generator than {first.folder}, or in other precision")


def _labels(runs: Sequence[DrawnRun]) -> list[str]:
    """The method, with the settings in which runs of the same one differ, or the folder where none do."""
    labels = []
    for run in runs:
        twins = [other.settings for other in runs if other.method == run.method]
        chain = [other.settings for other in runs]  # how the chain ran is told whatever the method
        told = [
            f"{key}={value}"
            for key, value in run.settings.items()
            if any(other.get(key) != value for other in (chain if key in run.plan.get("text", {}) else twins))
        ]
        if twins.count(run.settings) > 1:
            told.append(run.folder.name)
        labels.append(run.method + (f" ({', '.join(told)})" if told else ""))
    return labels


def _image(run: DrawnRun, place: tuple[int, int]) -> Pixels:
    row = run.rows[place]
    path = run.images / str(row["file"])
    if not path.is_file():
        raise BadInputError(f"{path} is missing; draw the samples again")
    data = path.read_bytes()
    if sha256_bytes(data) != row["sha256"]:
        raise BadInputError(f"{path} is not the image that {SAMPLES_FILE} lists; draw the samples again")
    return thumbnail(decode_rgb(data)[0], _LARGEST)
