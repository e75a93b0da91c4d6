"""A dataset brought once to a generator's shape and kept as 8-bit arrays, for training to draw from at random."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minoritybench.data.resize import resize
from minoritybench.data.source import ImageDecodeError, ImageSource, LoadedImage, SourceSpec, open_source
from minoritybench.errors import BadInputError
from minoritybench.prepare.artefact import PREPARE_SEED
from minoritybench.rank_shard import as_unit_tensor
from minoritybench.rng import derived_seed
from minoritybench.store import Receipts, atomic_path, digest_of

SHARD_SIZE = 1024
FACTS = frozenset({"kept", "failed"})
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImagesPlan:
    """What a worker needs to bring any shard of a source to `state_shape`; `stage` names files and receipts; `most` is
    the number of images drawn at random where there are more (0: all are taken)."""

    out: str
    token: str
    stage: str
    source: SourceSpec
    state_shape: tuple[int, ...]
    most: int = 0

    def chosen(self, total: int) -> NDArray[np.int64]:
        """Which of `total` images are taken, ascending: a draw that depends on the numbers alone."""
        if not 0 < self.most < total:
            return np.arange(total)
        order = np.random.RandomState(derived_seed(PREPARE_SEED, "chosen", total) % 2**32).permutation(total)
        return np.sort(order[: self.most])

    def file(self, shard: int) -> Path:
        """Where the pixels of a shard lie."""
        return Path(self.out) / "shards" / f"{self.stage}-{shard:06d}.npy"


@dataclass(frozen=True)
class ImageStore:
    """Images of one or more sources in order: `files` of uint8 `(n, C, H, W)` with `sizes` n, and `labels` int64 `(N,)`
    where the sources have classes. `token` stands for the content."""

    files: tuple[Path, ...]
    sizes: tuple[int, ...]
    labels: NDArray[np.int64] | None
    token: str

    def __len__(self) -> int:
        return sum(self.sizes)

    @cached_property
    def _arrays(self) -> list[NDArray[np.uint8]]:
        return [np.load(file, mmap_mode="r") for file in self.files]

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum([0, *self.sizes], dtype=np.int64)

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Images `indices` in diffusion space, float32 `(B, C, H, W)` in `[-1, 1]`."""
        wanted = np.asarray(indices, dtype=np.int64)
        shards = np.searchsorted(self._starts, wanted, side="right") - 1
        rows = [self._arrays[s][i] for s, i in zip(shards, wanted - self._starts[shards], strict=True)]
        return torch.from_numpy(np.stack(rows)).float() / 127.5 - 1

    def joined(self, other: ImageStore) -> ImageStore:
        """This store's images, then the other's; without labels, for their classes need not agree."""
        return ImageStore(
            self.files + other.files, self.sizes + other.sizes, None, digest_of([self.token, other.token])
        )


def image_shard(plan: ImagesPlan, shard: int) -> None:
    """Decode the images of one shard, bring them to shape and write them, then the receipt."""
    source = _opened(plan.source, plan.token)
    kept: list[int] = []
    failed: list[str] = []
    pixels: list[NDArray[np.uint8]] = []
    for index in plan.chosen(len(source.ids))[shard * SHARD_SIZE : (shard + 1) * SHARD_SIZE].tolist():
        try:
            pixels.append(to_state_pixels(source.load(index), plan.state_shape))
            kept.append(index)
        except ImageDecodeError as error:
            failed.append(f"{source.ids[index]}: {error}")
    file = plan.file(shard)
    with atomic_path(file) as part, part.open("wb") as handle:
        np.save(handle, np.stack(pixels) if pixels else np.empty((0, *plan.state_shape), np.uint8))
    Receipts(Path(plan.out), plan.stage, plan.token).write(shard, [file], {"kept": kept, "failed": failed})


def to_state_pixels(image: LoadedImage, state_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A decoded image as uint8 `(C, H, W)`: centre square, antialiased resize, mean of the channels for greyscale."""
    channels, side = state_shape[0], state_shape[-1]
    unit = as_unit_tensor(image)
    height, width = unit.shape[-2:]
    square = min(height, width)
    top, left = (height - square) // 2, (width - square) // 2
    unit = resize(unit[..., top : top + square, left : left + square], f"antialias-{side}")
    unit = unit.mean(dim=1) if channels == 1 else unit[0]
    return np.asarray((unit * 255).round().clamp(0, 255).to(torch.uint8).numpy())


def open_store(plan: ImagesPlan, facts: Sequence[dict[str, Any]]) -> ImageStore:
    """The store that finished shards make up; what could not be decoded is left out and told."""
    failed = [line for fact in facts for line in fact["failed"]]
    for line in failed[:5]:
        log.warning("left out: %s", line)
    if len(failed) > 5:
        log.warning("left out: %d images in all", len(failed))
    kept = np.array([index for fact in facts for index in fact["kept"]], dtype=np.int64)
    if not len(kept):
        raise BadInputError(f"{plan.source.name}: no image could be read")
    labels = class_labels(_opened(plan.source, plan.token))
    sizes = tuple(len(fact["kept"]) for fact in facts)
    files = tuple(plan.file(shard) for shard in range(len(facts)))
    return ImageStore(files, sizes, None if labels is None else labels[kept], plan.token)


def class_labels(source: ImageSource) -> NDArray[np.int64] | None:
    """Class numbers of a source's images: its own `labels`, else one class a first folder of the ids, in ascending
    order (ImageNet's; that of numbers, where all are numbers: the hub's labels); None where there are none."""
    own = getattr(source, "labels", None)
    if own is not None:
        return np.asarray(own, dtype=np.int64)
    folders = [id_.partition("/")[0] if "/" in id_ else None for id_ in source.ids]
    if None in folders or len(set(folders)) < 2:
        return None
    names = {str(folder) for folder in folders}
    ordered = sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
    numbers = {folder: number for number, folder in enumerate(ordered)}
    return np.array([numbers[str(folder)] for folder in folders], dtype=np.int64)


@lru_cache(maxsize=4)
def _opened(spec: SourceSpec, token: str) -> ImageSource:
    """Opened once a process; `token` changes with the source's content."""
    return open_source(spec)
