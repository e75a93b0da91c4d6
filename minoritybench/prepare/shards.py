"""What workers do for a kit: draw samples of the generator, compute values over stored images, shard by shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minoritybench.diffusion.loop import run_chain
from minoritybench.diffusion.model import DiffusionModel
from minoritybench.diffusion.schedule import Schedule, make_schedule
from minoritybench.diffusion.step import Method
from minoritybench.methods import ConfiguredMethod, configure
from minoritybench.microbatch import pad_rows, torch_threads
from minoritybench.perceptual import Distance, open_distance
from minoritybench.prepare.artefact import PREPARE_SEED
from minoritybench.prepare.images import SHARD_SIZE, ImageStore
from minoritybench.records import load_benchmark
from minoritybench.registry import user_code
from minoritybench.rng import ImageStreams
from minoritybench.sample_job import SampleRequest, open_generator
from minoritybench.sample_shard import LABEL_STREAM
from minoritybench.store import Receipts, atomic_path, digest_of

GENERATED_SHARD = 128
GENERATED_SEED = 900
"""No benchmark samples with it, and no setting was chosen on it."""
GENERATED = "generated"
VALUES = "values"


@dataclass(frozen=True)
class WorkPlan:
    """What a worker needs to reopen a part's preparation; `token` stands for the identity and the images' content."""

    work: str
    token: str
    method: str
    settings: tuple[tuple[str, Any], ...]
    benchmark: str
    generator: str
    part: str
    root: str | None
    device: str
    workers: int
    engine: str


class Bench:
    """The opened generator and distances: what a value is computed with, image by image."""

    def __init__(self, model: DiffusionModel, device: str) -> None:
        self.model = model
        self.device = device
        self.passes: Counter[str] = Counter()

    def schedule(self, spacing: str) -> Schedule:
        """The generator's chain, respaced."""
        return make_schedule(self.model.schedule, spacing, self.model.train_steps)

    def streams(self, indices: Sequence[int]) -> ImageStreams:
        """Random streams of the dataset's images `indices`."""
        return ImageStreams(PREPARE_SEED, indices)

    def distance(self, name: str) -> Distance:
        """A distance between images in diffusion space."""
        return _distance(name, self.device)


@lru_cache(maxsize=2)
def _distance(name: str, device: str) -> Distance:
    """Opened once a process: LPIPS builds its network and hashes the weights."""
    opened: Distance = open_distance(name, device).value
    return opened


Value = Callable[[Bench, Tensor, Tensor | None, Sequence[int]], Tensor]
"""Images `(B, C, H, W)` in diffusion space, their classes `(B,)` or None and their numbers, to a value each `(B,)`."""


@dataclass(frozen=True)
class GeneratedPlan:
    """What a worker needs to draw any shard of `count` images."""

    work: WorkPlan
    count: int
    class_conditional: bool

    @property
    def token(self) -> str:
        """Stands for what is drawn."""
        return digest_of([self.work.token, GENERATED, self.count, self.class_conditional, GENERATED_SEED])

    def file(self, shard: int) -> Path:
        """Where the pixels of a shard lie."""
        return Path(self.work.work) / "shards" / f"{GENERATED}-{shard:06d}.npy"


def generate_shard(plan: GeneratedPlan, shard: int) -> None:
    """Draw the images of one shard by plain ancestral sampling at the generator's own size, as 8-bit pixels."""
    _, model = _opened(plan.work)
    benchmark = load_benchmark(plan.work.benchmark)
    schedule = make_schedule(model.schedule, str(benchmark.steps), model.train_steps)
    indices = list(range(shard * GENERATED_SHARD, min((shard + 1) * GENERATED_SHARD, plan.count)))
    pixels: list[Tensor] = []
    for start in range(0, len(indices), model.micro_batch):
        block = indices[start : start + model.micro_batch]
        streams = ImageStreams(GENERATED_SEED, block + block[:1] * (model.micro_batch - len(block)))
        labels = None
        if plan.class_conditional and model.num_classes is not None:
            labels = streams.integers(model.num_classes, LABEL_STREAM).to(plan.work.device)
        with torch_threads(model.threads), torch.no_grad():
            state, _ = run_chain(model, schedule, Method(), streams, labels, device=plan.work.device)
        pixels.append(((state[: len(block)].clamp(-1, 1) + 1) * 127.5).round().to("cpu", torch.uint8))
    file = plan.file(shard)
    with atomic_path(file) as part, part.open("wb") as handle:
        np.save(handle, torch.cat(pixels).numpy())
    receipts = Receipts(Path(plan.work.work), GENERATED, plan.token)
    receipts.write(shard, [file], {"kept": indices, "failed": []})


@dataclass(frozen=True)
class ValuesPlan:
    """What a worker needs to compute `function` of the method over any shard of `store`."""

    work: WorkPlan
    function: str
    store: ImageStore
    token: str

    def file(self, shard: int) -> Path:
        """Where the values of a shard lie, float64 `(n,)`."""
        return Path(self.work.work) / "shards" / f"{VALUES}-{self.function}-{shard:06d}.npy"


def values_shard(plan: ValuesPlan, shard: int) -> None:
    """Compute the values of one shard and write them, then the receipt."""
    method, model = _opened(plan.work)
    bench = Bench(model, plan.work.device)
    function: Value = getattr(method.instance, plan.function)
    last = min((shard + 1) * SHARD_SIZE, len(plan.store))
    found: list[Tensor] = []
    for start in range(shard * SHARD_SIZE, last, model.micro_batch):
        indices = list(range(start, min(start + model.micro_batch, last)))
        padded = indices + indices[:1] * (model.micro_batch - len(indices))
        images = pad_rows(plan.store.take(indices), model.micro_batch).to(plan.work.device)
        labels = None if plan.store.labels is None else torch.from_numpy(plan.store.labels[padded])
        with torch_threads(model.threads), torch.no_grad(), user_code(plan.work.method):
            values = function(bench, images, None if labels is None else labels.to(plan.work.device), padded)
        found.append(values[: len(indices)].double().cpu())
    file = plan.file(shard)
    with atomic_path(file) as part, part.open("wb") as handle:
        np.save(handle, torch.cat(found).numpy())
    receipts = Receipts(Path(plan.work.work), f"{VALUES}-{plan.function}", plan.token)
    receipts.write(shard, [file], {"images": last - shard * SHARD_SIZE})


@lru_cache(maxsize=1)
def _opened(plan: WorkPlan) -> tuple[ConfiguredMethod, DiffusionModel]:
    """Method and generator, opened once a process."""
    benchmark = load_benchmark(plan.benchmark)
    request = SampleRequest("adm", plan.benchmark, device=plan.device)
    return configure(plan.method, dict(plan.settings), benchmark), open_generator(plan.generator, request)
