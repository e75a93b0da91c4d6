"""Output folders of `sample` and `evaluate --method`, read back so that the same images of several can be paired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minoritybench.data.source import decode_rgb
from minoritybench.errors import BadInputError
from minoritybench.given_samples import SAMPLES_FILE, SAMPLES_FOLDER
from minoritybench.report.pictures import Pixels, thumbnail
from minoritybench.store import PLAN_FILE, read_json, sha256_bytes


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


def load_run(folder: Path) -> DrawnRun:
    """Read an output folder. Error: no finished samples of ours in it exits 2."""
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


def refuse_unlike(run: DrawnRun, first: DrawnRun) -> None:
    """Image i of a seed must have the same prompt and noise in both, and the same network: else exit 2."""
    seeds, other = ({seed for seed, _ in one.rows} for one in (run, first))
    if seeds != other:
        raise BadInputError(f"{run.folder} has the seeds {sorted(seeds)}, {first.folder} {sorted(other)}")
    if run.prompts != first.prompts:
        raise BadInputError(f"{run.folder} was not drawn for the same prompts as {first.folder}, or not as many")
    if run.plan["generator"] != first.plan["generator"]:
        raise BadInputError(f"{run.folder} was drawn by another generator than {first.folder}, or in other precision")


def labels_of(runs: Sequence[DrawnRun]) -> list[str]:
    """A name for each: the method, with the settings in which runs of the same one differ, or the folder where none
    do."""
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


def image_at(run: DrawnRun, place: tuple[int, int], largest: int) -> Pixels:
    """The image of a seed and index, shrunk to fit `largest` pixels. Errors: a file that is gone or altered exits 2."""
    row = run.rows[place]
    path = run.images / str(row["file"])
    if not path.is_file():
        raise BadInputError(f"{path} is missing; draw the samples again")
    data = path.read_bytes()
    if sha256_bytes(data) != row["sha256"]:
        raise BadInputError(f"{path} is not the image that {SAMPLES_FILE} lists; draw the samples again")
    return thumbnail(decode_rgb(data)[0], largest)
