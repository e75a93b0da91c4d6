"""One shard of measuring: features and per-image scores of sample files, kept as one safetensors file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from minoritybench.data.source import LoadedImage, decode_rgb
from minoritybench.encoders import load_encoder
from minoritybench.encoders.base import Encoder
from minoritybench.features import Extractor, load_extractor
from minoritybench.microbatch import torch_threads
from minoritybench.provenance import tool_record
from minoritybench.rank_shard import as_unit_tensor, prepare_images
from minoritybench.registry import user_code
from minoritybench.scoring import Backoff, exact_scores
from minoritybench.store import Receipts, atomic_path, sha256_bytes

STAGE = "measure"
FACTS = frozenset({"images", "tool"})
SHARD_SIZE = 250
MODES = ("reference", "deflated")


@dataclass(frozen=True)
class MeasurePlan:
    """What a worker needs: image files in order, the encoders that score them and the extractors that describe them.

    `threads` is the torch thread count of encoders that name none of their own.
    """

    out: str
    token: str
    files: tuple[str, ...]
    encoders: tuple[str, ...]
    extractors: tuple[str, ...]
    device: str
    threads: int | None
    minmax_stretch: bool = False

    @property
    def shards(self) -> int:
        """Shards in all."""
        return -(-len(self.files) // SHARD_SIZE)


def feature_key(extractor: str) -> str:
    """Where an extractor's features stand in a measurement file."""
    return f"features/{extractor}"


def score_key(encoder: str, mode: str) -> str:
    """Where an encoder's scores stand in a measurement file."""
    return f"score/{encoder}/{mode}"


def measure_shard(plan: MeasurePlan, shard: int) -> None:
    """Measure the files of one shard."""
    tool = tool_record().model_dump()
    encoders, extractors = _opened(plan.encoders, plan.extractors, plan.device, plan.token)
    images = [
        _load(Path(name), plan.minmax_stretch) for name in plan.files[shard * SHARD_SIZE : (shard + 1) * SHARD_SIZE]
    ]
    arrays: dict[str, NDArray[np.generic]] = {
        feature_key(extractor.name): extractor_features(extractor, images) for extractor in extractors
    }
    for name, (encoder, backoff) in zip(plan.encoders, encoders, strict=True):
        with user_code(name), torch_threads(plan.threads):
            scores = exact_scores(encoder, prepare_images(encoder, images), backoff=backoff)
        arrays[score_key(name, "reference")] = scores.reference.numpy()
        arrays[score_key(name, "deflated")] = scores.deflated.numpy()
    file = measure_file(Path(plan.out), shard)
    with atomic_path(file) as part:
        save_file(arrays, part)
    Receipts(Path(plan.out), STAGE, plan.token).write(shard, [file], {"images": len(images), "tool": tool})


def measure_file(out: Path, shard: int) -> Path:
    """Where the measurements of a shard lie."""
    return out / "measures" / f"{shard:06d}.safetensors"


def load_measurements(plan: MeasurePlan) -> dict[str, NDArray[np.generic]]:
    """All shards' arrays, joined in the order of `plan.files`."""
    parts = [load_file(measure_file(Path(plan.out), shard)) for shard in range(plan.shards)]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def extractor_features(extractor: Extractor, images: list[LoadedImage]) -> NDArray[np.float32]:
    """Features `(N, D)` of decoded images, which may differ in size."""
    if len({image.pixels.shape for image in images}) == 1:
        return extractor(torch.cat([as_unit_tensor(image) for image in images]))
    return np.concatenate([extractor(as_unit_tensor(image)) for image in images])


def minmax_stretched(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 `(H, W, 3)` with its least value at 0 and its largest at 255, over all channels; a flat image stays.

    Reference: torchvision's `save_image(normalize=True)`, through which the published text-to-image samples went. That
    divides by the range plus 1e-5, which can change an 8-bit level by one at most.
    """
    low, high = int(pixels.min()), int(pixels.max())
    if low == high:
        return pixels
    return np.round((pixels.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)


def _load(path: Path, stretch: bool) -> LoadedImage:
    data = path.read_bytes()
    pixels, conversion = decode_rgb(data)
    pixels = minmax_stretched(pixels) if stretch else pixels
    return LoadedImage(pixels, sha256_bytes(data), len(data), conversion)


@lru_cache(maxsize=1)
def _opened(
    encoders: tuple[str, ...], extractors: tuple[str, ...], device: str, token: str
) -> tuple[list[tuple[Encoder, Backoff]], list[Extractor]]:
    """Encoders, each with what fits in memory of it, and extractors; opened once a process."""
    opened = [load_encoder(name, device=device) for name in encoders]
    return [(encoder, Backoff(encoder, device)) for encoder in opened], [load_extractor(name) for name in extractors]
