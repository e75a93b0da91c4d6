"""Samples made elsewhere: a folder, a zip or an .npz of images, opened and checked for what spoils a comparison."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minoritybench.data.prompts import Prompts, load_prompts
from minoritybench.data.source import ImageDecodeError, ImageSource, SourceSpec, decode_rgb, open_source
from minoritybench.errors import BadInputError, counted
from minoritybench.measure_shard import Selection
from minoritybench.store import PLAN_FILE, read_json

SAMPLES_FOLDER = "samples"
SAMPLES_FILE = "samples.json"
"""The manifest of drawn images."""
_ARCHIVES = {".zip": "zip", ".npz": "npz"}
_BROKEN_NAMED = 5
_LOSSY = "compression of one side alone moves Frechet distances strongly; save them as PNG"


@dataclass(frozen=True)
class GivenSamples:
    """What there is to measure: `rows` of a manifest, image `size` (width, height), and `warnings` about the files."""

    images: Selection
    rows: list[dict[str, Any]]
    size: tuple[int, int]
    warnings: list[str]


def open_samples(path: Path, limit: int | None) -> ImageSource:
    """The images of `--samples`; of a folder that `evaluate` left, the drawn ones and not its sheet. Archives are read
    in place: nothing is unpacked, and nothing unpickled."""
    place = _images_at(path)
    kind = "folder"
    if place.is_file():
        kind = _ARCHIVES.get(place.suffix.lower(), "")
        if not kind:
            raise BadInputError(f"--samples {path}: give a folder of images, a .zip of them or an .npz with arr_0")
    elif not place.is_dir():
        raise BadInputError(f"--samples {path}: no such folder or archive of images")
    return open_source(SourceSpec(kind, str(place), None, limit))


def given_prompts(path: Path, limit: int | None, asked: str | None, default: str) -> Prompts:
    """A prompt for each image of `open_samples(path, limit)`, in that order.

    By samples.json, where we drew the images; else line i of the file `asked` for, or of the `default` one, is that of
    image i in natural order (`2.png` before `10.png`). Errors: as many lines as images there must be, and `asked` may
    not contradict samples.json.
    """
    names = open_samples(path, None).ids
    by_name = _manifest_prompts(_images_at(path), names)
    if by_name is None:
        prompts = load_prompts(asked or default)
        prompts.warn_of_blank_lines()
        if len(prompts.texts) != len(names):
            raise BadInputError(
                f"--samples {path}: {counted(len(names), 'image')}, but {prompts.name} has"
                f" {counted(len(prompts.texts), 'prompt')}; name a file of one line an image with --prompts"
            )
        by_name = dict(zip(sorted(names, key=_natural), prompts.texts, strict=True))
        return Prompts(prompts.name, tuple(by_name[name] for name in names[:limit]))
    texts = tuple(by_name[name] for name in names[:limit])
    if asked is not None and not set(texts) <= set(load_prompts(asked).texts):
        raise BadInputError(f"--prompts {asked}: {SAMPLES_FILE} beside the images names other prompts; leave it out")
    return Prompts(SAMPLES_FILE, texts)


def _images_at(path: Path) -> Path:
    """The folder or archive itself; of what `evaluate` left, the folder of the drawn images."""
    place = path.resolve()
    drawn = (place / PLAN_FILE).is_file() and (place / SAMPLES_FOLDER).is_dir()
    return place / SAMPLES_FOLDER if drawn else place


def _manifest_prompts(place: Path, names: Sequence[str]) -> dict[str, str] | None:
    """Prompt by image from samples.json in the folder, or above it where it holds one seed; None without such a file.
    Error: an image that it does not list."""
    for folder, prefix in ((place, ""), (place.parent, f"{place.name}/")):
        path = folder / SAMPLES_FILE
        if not path.is_file():
            continue
        rows = read_json(path)
        try:
            found = {str(row["file"]): str(row["prompt"]) for row in rows}
        except (TypeError, KeyError):
            raise BadInputError(f"{path} lists no prompts; it is not of text-to-image samples") from None
        missing = [name for name in names if prefix + name not in found]
        if missing:
            raise BadInputError(f"{path} does not list {missing[0]}; remove the image, or move the file away")
        return {name: found[prefix + name] for name in names}
    return None


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts numbers in names by value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def read_samples(source: ImageSource) -> GivenSamples:
    """Every image decoded once, as one group. Errors: images that cannot be read, for a set with gaps cannot be
    measured, and images of several sizes."""
    rows: list[dict[str, Any]] = []
    broken: list[str] = []
    sizes: Counter[tuple[int, int]] = Counter()
    lossy = 0
    for index, name in enumerate(source.ids):
        try:
            image = source.load(index)
        except ImageDecodeError as error:
            broken.append(f"{name}: {error}")
            continue
        rows.append({"file": name, "seed": None, "index": index, "label": None, "sha256": image.sha256})
        sizes[(image.pixels.shape[1], image.pixels.shape[0])] += 1
        lossy += image.lossy
    if broken:
        named = "; ".join(broken[:_BROKEN_NAMED])
        more = f"; and {len(broken) - _BROKEN_NAMED} more" if len(broken) > _BROKEN_NAMED else ""
        raise BadInputError(
            f"--samples: {len(broken)} of {len(source.ids)} images cannot be read, remove or replace them:"
            f" {named}{more}"
        )
    (size, most), *others = sizes.most_common()
    if others:
        raise BadInputError(
            f"--samples: {most} images have {size[0]} x {size[1]} px and {len(rows) - most} another size, the first of"
            f" them {others[0][0][0]} x {others[0][0][1]}: one set has one size"
        )
    told = [f"{lossy} of {len(rows)} given samples are JPEG or lossy WebP: {_LOSSY}"] if lossy else []
    chosen = Selection(
        source=source.spec,
        positions=tuple(range(len(rows))),
        digests=tuple(str(row["sha256"]) for row in rows),
    )
    return GivenSamples(chosen, rows, size, told)


def colour_warning(samples: NDArray[Any], real: NDArray[np.bool_]) -> list[str]:
    """What to say of grey samples beside colour images, or the other way round; `(M,)` and `(N,)`, whether grey."""
    fake_grey, real_grey = float(np.mean(samples)), float(np.mean(real))
    if fake_grey == 1 and real_grey < 0.5:
        return [f"all samples are greyscale, {1 - real_grey:.0%} of the reference images are in colour"]
    if real_grey == 1 and fake_grey < 0.5:
        return [f"all reference images are greyscale, {1 - fake_grey:.0%} of the samples are in colour"]
    return []


def first_pixels(images: Selection, count: int) -> Sequence[NDArray[np.uint8]]:
    """The first images, for a sheet."""
    if images.source is None:
        return [decode_rgb(Path(name).read_bytes())[0] for name in images.files[:count]]
    source = open_source(images.source)
    return [source.load(position).pixels for position in images.positions[:count]]
