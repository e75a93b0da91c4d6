"""One shard of measuring: features and per-image scores of images, kept as one safetensors file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from minoritybench.data.source import (
    ImageDecodeError,
    ImageSource,
    LoadedImage,
    SourceSpec,
    decode_rgb,
    is_lossy,
    open_source,
)
from minoritybench.encoders import load_encoder
from minoritybench.encoders.base import Encoder, micro_batch_of
from minoritybench.errors import CheckFailedError
from minoritybench.features import Extractor, Space, describe, load_extractor
from minoritybench.metrics.text_image import TextImageScorer
from minoritybench.microbatch import torch_threads
from minoritybench.provenance import tool_record
from minoritybench.rank_shard import as_unit_tensor, prepare_images
from minoritybench.registry import user_code
from minoritybench.scoring import Backoff, exact_scores
from minoritybench.store import Receipts, atomic_path, sha256_bytes
from minoritybench.text_metrics import TextChoice

STAGE = "measure"
FACTS = frozenset({"images", "tool"})
SHARD_SIZE = 250
MODES = ("reference", "deflated")
GREY = "grey"
"""Where a measurement file says of each image whether it is grey, uint8."""
_TINT = 16
"""Levels of 256 between channels that still pass as grey."""


@dataclass(frozen=True)
class Selection:
    """Which images to measure, in order, as plain data: `files`, or images of a `source` by `positions`, each with the
    digest that its content must have."""

    files: tuple[str, ...] = ()
    source: SourceSpec | None = None
    positions: tuple[int, ...] = ()
    digests: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files) or len(self.positions)


@dataclass(frozen=True)
class MeasurePlan:
    """What a worker needs: the images, the encoders that score them and the feature spaces they are described in.

    `text` are the metrics of image and prompt, whose `prompts` are one an image. `threads` is the torch thread count of
    networks that name none of their own. `batch_size` images are held at a time,
    rounded up to whole micro-batches of every network (None: a shard), and change no result.
    """

    out: str
    token: str
    images: Selection
    encoders: tuple[str, ...]
    spaces: tuple[Space, ...]
    device: str
    threads: int | None
    minmax_stretch: bool = False
    batch_size: int | None = None
    text: tuple[TextChoice, ...] = ()
    prompts: tuple[str, ...] = ()

    @property
    def shards(self) -> int:
        """Shards in all."""
        return -(-len(self.images) // SHARD_SIZE)

    @property
    def extractors(self) -> tuple[str, ...]:
        """Each extractor once."""
        return tuple(dict.fromkeys(space.extractor for space in self.spaces))


@dataclass(frozen=True)
class _Judges:
    """Everything opened for a plan: encoders, each with what fits in memory of it, extractors, and scorers of image and
    prompt by the key of their metric."""

    encoders: dict[str, tuple[Encoder, Backoff]]
    extractors: dict[str, Extractor]
    scorers: dict[str, TextImageScorer]

    def images_at_a_time(self, requested: int | None) -> int:
        rows = [micro_batch_of(encoder) for encoder, _ in self.encoders.values()]
        rows += [getattr(extractor, "micro_batch", None) or 1 for extractor in self.extractors.values()]
        whole = math.lcm(*rows)
        return SHARD_SIZE if requested is None else min(SHARD_SIZE, -(-requested // whole) * whole)


def score_key(encoder: str, mode: str) -> str:
    """Where an encoder's scores stand in a measurement file."""
    return f"score/{encoder}/{mode}"


def measure_shard(plan: MeasurePlan, shard: int) -> None:
    """Measure the images of one shard."""
    tool = tool_record().model_dump()
    judges = _opened(plan.encoders, plan.extractors, plan.text, plan.device, plan.token)
    last = min(len(plan.images), (shard + 1) * SHARD_SIZE)
    step = judges.images_at_a_time(plan.batch_size)
    parts = [_measured(plan, judges, start, min(start + step, last)) for start in range(shard * SHARD_SIZE, last, step)]
    file = measure_file(Path(plan.out), shard)
    with atomic_path(file) as part:
        save_file({key: np.concatenate([measured[key] for measured in parts]) for key in parts[0]}, part)
    images = last - shard * SHARD_SIZE
    Receipts(Path(plan.out), STAGE, plan.token).write(shard, [file], {"images": images, "tool": tool})


def _measured(plan: MeasurePlan, judges: _Judges, first: int, last: int) -> dict[str, NDArray[Any]]:
    images = _load(plan, first, last)
    arrays: dict[str, NDArray[Any]] = {GREY: np.array([is_grey(image.pixels) for image in images], dtype=np.uint8)}
    tensors = [as_unit_tensor(image) for image in images]
    for name, extractor in judges.extractors.items():
        with user_code(name), torch_threads(plan.threads):
            arrays |= describe(extractor, tensors, [space for space in plan.spaces if space.extractor == name])
    for name, (encoder, backoff) in judges.encoders.items():
        with user_code(name), torch_threads(plan.threads):
            scores = exact_scores(encoder, prepare_images(encoder, images), backoff=backoff)
        arrays[score_key(name, "reference")] = scores.reference.numpy()
        arrays[score_key(name, "deflated")] = scores.deflated.numpy()
    if judges.scorers:
        pixels = torch.from_numpy(np.stack([image.pixels for image in images])).permute(0, 3, 1, 2)
        with torch_threads(plan.threads):
            arrays |= {key: scorer(pixels, plan.prompts[first:last]) for key, scorer in judges.scorers.items()}
    return arrays


def measure_file(out: Path, shard: int) -> Path:
    """Where the measurements of a shard lie."""
    return out / "measures" / f"{shard:06d}.safetensors"


def load_measurements(plan: MeasurePlan) -> dict[str, NDArray[Any]]:
    """All shards' arrays, joined in the order of the images."""
    parts = [load_file(measure_file(Path(plan.out), shard)) for shard in range(plan.shards)]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def is_grey(pixels: NDArray[np.uint8]) -> bool:
    """Whether the three channels of `(H, W, 3)` differ by no more than the tint that a decoder leaves."""
    return int((pixels.max(axis=2) - pixels.min(axis=2)).max()) <= _TINT


def minmax_stretched(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 `(H, W, 3)` with its least value at 0 and its largest at 255, over all channels; a flat image stays.

    Reference: torchvision's `save_image(normalize=True)`, through which the published text-to-image samples went. That
    divides by the range plus 1e-5, which can change an 8-bit level by one at most.
    """
    low, high = int(pixels.min()), int(pixels.max())
    if low == high:
        return pixels
    return np.round((pixels.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)


def _load(plan: MeasurePlan, first: int, last: int) -> list[LoadedImage]:
    chosen = plan.images
    if chosen.source is None:
        images = [_from_file(Path(name)) for name in chosen.files[first:last]]
    else:
        source = _source(chosen.source, plan.token)
        listed = zip(chosen.positions[first:last], chosen.digests[first:last], strict=True)
        images = [_listed(source, position, digest) for position, digest in listed]
    if not plan.minmax_stretch:
        return images
    return [LoadedImage(minmax_stretched(i.pixels), i.sha256, i.file_bytes, i.conversion, i.lossy) for i in images]


def _listed(source: ImageSource, position: int, digest: str) -> LoadedImage:
    name = source.ids[position]
    try:
        image = source.load(position)
    except ImageDecodeError as error:
        raise CheckFailedError(f"image {name} can no longer be read: {error}") from error
    if image.sha256 != digest:
        raise CheckFailedError(
            f"image {name} differs from the one that was listed (sha256 {image.sha256[:12]}..., not {digest[:12]}...)"
        )
    return image


def _from_file(path: Path) -> LoadedImage:
    data = path.read_bytes()
    pixels, conversion = decode_rgb(data)
    return LoadedImage(pixels, sha256_bytes(data), len(data), conversion, is_lossy(data))


@lru_cache(maxsize=2)
def _source(spec: SourceSpec, token: str) -> ImageSource:
    """A source, listed once a process for a plan; another plan lists it again."""
    return open_source(spec)


@lru_cache(maxsize=1)
def _opened(
    encoders: tuple[str, ...], extractors: tuple[str, ...], text: tuple[TextChoice, ...], device: str, token: str
) -> _Judges:
    """Opened once a process."""
    opened = {name: load_encoder(name, device=device) for name in encoders}
    return _Judges(
        {name: (encoder, Backoff(encoder, device)) for name, encoder in opened.items()},
        {name: load_extractor(name, device) for name in extractors},
        {choice.key: choice.open(device) for choice in text},
    )
