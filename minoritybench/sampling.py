"""The sampling stage: a benchmark, a method and seeds to PNG files and a manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minoritybench.diffusion.loop import run_chain
from minoritybench.diffusion.model import DiffusionModel
from minoritybench.diffusion.schedule import make_schedule
from minoritybench.encoders import load_encoder
from minoritybench.encoders.base import Encoder
from minoritybench.engine import check_engine
from minoritybench.engine.stage import run_stage
from minoritybench.errors import BadInputError
from minoritybench.methods import ConfiguredMethod, configure
from minoritybench.microbatch import torch_threads
from minoritybench.needs import ENCODER, PREPARED, Need, open_distances
from minoritybench.provenance import tool_record
from minoritybench.records import BenchmarkSpec, load_benchmark
from minoritybench.registry import code_digests, resolve, user_code
from minoritybench.report.pictures import png_bytes
from minoritybench.rng import ImageStreams
from minoritybench.store import (
    Receipts,
    digest_of,
    folder_lock,
    open_output,
    sha256_bytes,
    write_bytes,
    write_text,
)

SAMPLES_FILE = "samples.json"
LABEL_STREAM = "labels"
STAGE = "sample"
FACTS = frozenset({"rows", "seconds", "passes", "tool"})
_SHARD_SIZE = 128
_SAMPLE_FORMAT = 3
"""Raised whenever the same plan would give other images."""


@dataclass(frozen=True)
class SampleRequest:
    """What `sample` was asked for; None means the benchmark's default. `n` is per seed; `settings` may be given as a
    dict of hyperparameters."""

    method: str
    benchmark: str = "digits"
    n: int | None = None
    seeds: tuple[int, ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()
    class_conditional: bool = False
    guide: str | None = None
    batch_size: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    workers: int = 1
    engine: str = "local"

    def __post_init__(self) -> None:
        seeds: Any = self.seeds if isinstance(self.seeds, Iterable) else (self.seeds,)  # Python callers give one, too
        object.__setattr__(self, "seeds", tuple(int(seed) for seed in seeds))
        object.__setattr__(self, "settings", tuple(dict(self.settings).items()))
        if self.batch_size is not None and self.batch_size < 1:
            raise BadInputError("--batch-size must be at least 1")
        if len(set(self.seeds)) != len(self.seeds) or not all(0 <= seed < 2**63 for seed in self.seeds):
            raise BadInputError("--seed values must be distinct, from 0 up and below 2^63")
        if self.n is not None and self.n < 1:
            raise BadInputError("--n must be at least 1")


@dataclass(frozen=True)
class SamplePlan:
    """What a worker needs to draw any shard, picklable. Shards run over seeds, then over blocks of images."""

    out: str
    token: str
    request: SampleRequest
    n: int
    seeds: tuple[int, ...]

    @property
    def blocks(self) -> int:
        """Shards a seed."""
        return -(-self.n // _SHARD_SIZE)

    @property
    def shards(self) -> int:
        """Shards in all."""
        return self.blocks * len(self.seeds)

    def images(self, shard: int) -> tuple[int, range]:
        """Seed and image numbers of a shard."""
        seed, block = divmod(shard, self.blocks)
        return self.seeds[seed], range(block * _SHARD_SIZE, min((block + 1) * _SHARD_SIZE, self.n))


@dataclass(frozen=True)
class Sampler:
    """Everything opened for one plan."""

    benchmark: BenchmarkSpec
    model: DiffusionModel
    method: ConfiguredMethod
    needs: dict[str, Need]
    guide: str
    spacing: str

    @property
    def encoder(self) -> Encoder | None:
        """The guide, if the method has use for one."""
        need = self.needs.get(ENCODER)
        return None if need is None else need.value

    def facts(self, request: SampleRequest) -> dict[str, Any]:
        """The identity of what is sampled: two requests with equal facts give equal images."""
        guide = self.needs.get(ENCODER)
        return {
            "format": _SAMPLE_FORMAT,
            "method": {"name": self.method.name, "params": self.method.params, "preset": self.method.preset},
            "generator": {
                "name": self.model.name,
                "weights_sha256": self.model.weights_sha256,
                "dtype": self.model.dtype,
            },
            "guide": None if guide is None else {"name": self.guide, "weights_sha256": guide.sha256},
            "needs": {name: need.sha256 for name, need in sorted(self.needs.items()) if name != ENCODER},
            "spacing": self.spacing,
            "class_conditional": request.class_conditional,
            "device": request.device,
            "code": code_digests(request.method, *([] if self.encoder is None else [self.guide])),
        }


@dataclass(frozen=True)
class SampleOutcome:
    """Finished samples: folder, manifest rows (`file, seed, index, label, sha256`), seconds spent, network passes a
    sample by kind, and the states of the code that drew them, one in a run that was never stopped."""

    out: Path
    rows: list[dict[str, Any]]
    seconds: float
    passes: dict[str, int]
    tools: list[dict[str, Any]]


def sample(method: str, out: Path | str, *, force: bool = False, **options: Any) -> SampleOutcome:
    """Draw samples into `out`: PNGs and samples.json. Options are the fields of `SampleRequest`; `force` replaces
    different work of ours in `out`."""
    plan, facts = make_plan(SampleRequest(method, **options), Path(out))
    with folder_lock(Path(out)):
        open_output(Path(out), facts, force=force)
        return draw(plan)


def make_plan(request: SampleRequest, out: Path) -> tuple[SamplePlan, dict[str, Any]]:
    """Check a request and fix the plan with the facts that identify it; nothing is drawn or written."""
    sampler = open_sampler(request)
    n = sampler.benchmark.n if request.n is None else request.n
    seeds = request.seeds or tuple(sampler.benchmark.seeds)
    facts = {"kind": "sample", **sampler.facts(request), "n": n, "seeds": list(seeds)}
    return SamplePlan(str(out), digest_of(facts), request, n, seeds), facts


def open_sampler(request: SampleRequest) -> Sampler:
    """Load the benchmark, the generator, the method and, where it needs one, the guide encoder."""
    benchmark = load_benchmark(request.benchmark)
    check_engine(request.engine, request.device)
    method = configure(request.method, dict(request.settings), benchmark)
    model = open_generator(benchmark, request)
    if request.class_conditional and model.num_classes is None:
        raise BadInputError(f"--class-conditional: {model.name} is unconditional")
    guide = request.guide or benchmark.guide
    needs = _open_needs(method, benchmark, model, guide, request)
    family = getattr(method.instance, "spacing", "")
    return Sampler(benchmark, model, method, needs, guide, f"{family}{benchmark.steps}")


def open_generator(benchmark: BenchmarkSpec, request: SampleRequest) -> DiffusionModel:
    """The benchmark's generator on the request's device, in its precision."""
    name = benchmark.generator
    with user_code(name):
        model: DiffusionModel = resolve("generators", name)(name, device=request.device, dtype=request.dtype)
    return model


def _open_needs(
    method: ConfiguredMethod, benchmark: BenchmarkSpec, model: DiffusionModel, guide: str, request: SampleRequest
) -> dict[str, Need]:
    """Everything the method asks for, checked before the first step."""
    names = method.needs(request.class_conditional)
    needs = open_distances(names, request.device)
    for name in sorted(name for name in names if name.startswith(f"{PREPARED}:")):
        from minoritybench.prepare import open_prepared

        needs[name] = open_prepared(name.partition(":")[2], method, benchmark, model, request.device)
    if ENCODER in names:
        encoder = load_encoder(guide, device=request.device)
        needs[ENCODER] = Need(encoder, getattr(encoder, "weights_sha256", None))
    return needs


def draw(plan: SamplePlan) -> SampleOutcome:
    """Draw the shards that are not done yet and write the manifest. The caller holds the folder's lock."""
    receipts = Receipts(Path(plan.out), STAGE, plan.token, FACTS)
    request = plan.request
    facts = run_stage(
        sample_shard,
        plan,
        plan.shards,
        receipts,
        label="sampling",
        workers=request.workers,
        engine=request.engine,
        device=request.device,
    )
    rows = [row for fact in facts for row in fact["rows"]]
    write_text(Path(plan.out) / SAMPLES_FILE, json.dumps(rows, indent=1) + "\n")
    tools = {json.dumps(fact["tool"], sort_keys=True): fact["tool"] for fact in facts}
    seconds = sum(fact["seconds"] for fact in facts)
    return SampleOutcome(Path(plan.out), rows, seconds, facts[0]["passes"], list(tools.values()))


def sample_shard(plan: SamplePlan, shard: int) -> None:
    """Draw one shard: its PNG files first, its receipt last."""
    started = perf_counter()
    sampler = _sampler(plan.request, plan.token)
    seed, indices = plan.images(shard)
    rows, files = [], []
    folder = Path(plan.out) / f"seed-{seed}"
    tool = tool_record().model_dump()
    images, labels, passes = sample_images(sampler, plan.request, seed, indices)
    for index, pixels, label in zip(indices, images, labels, strict=True):
        data = png_bytes(pixels)
        path = folder / f"{index:05d}.png"
        write_bytes(path, data)
        files.append(path)
        rows.append(
            {
                "file": f"{folder.name}/{path.name}",
                "seed": seed,
                "index": index,
                "label": label,
                "sha256": sha256_bytes(data),
            }
        )
    facts = {"rows": rows, "seconds": perf_counter() - started, "passes": passes, "tool": tool}
    Receipts(Path(plan.out), STAGE, plan.token).write(shard, files, facts)


def sample_images(
    sampler: Sampler, request: SampleRequest, seed: int, indices: Sequence[int]
) -> tuple[list[np.ndarray[Any, np.dtype[np.uint8]]], list[int | None], dict[str, int]]:
    """Draw images `indices` of run `seed`: uint8 `(H, W, 3)` each, their labels, and the passes a sample cost.

    Every network call runs on the model's fixed micro-batch, whatever `batch_size` was asked for: a smaller one would
    cost as much.
    """
    size = sampler.model.micro_batch
    pixels: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
    labels: list[int | None] = []
    passes: dict[str, int] = {}
    for start in range(0, len(indices), size):
        block = list(indices[start : start + size])
        images, block_labels, passes = _sample_block(sampler, request, seed, block)
        pixels.extend(to_pixels(images[: len(block)]))
        labels.extend([None] * len(block) if block_labels is None else block_labels[: len(block)].tolist())
    return pixels, labels, passes


def _sample_block(
    sampler: Sampler, request: SampleRequest, seed: int, block: list[int]
) -> tuple[Tensor, Tensor | None, dict[str, int]]:
    """One micro-batch, filled up with repeats of its first image."""
    model = sampler.model
    streams = ImageStreams(seed, block + block[:1] * (model.micro_batch - len(block)))
    labels = None
    if request.class_conditional and model.num_classes is not None:
        labels = streams.integers(model.num_classes, LABEL_STREAM).to(request.device)
    schedule = make_schedule(model.schedule, sampler.spacing, model.train_steps)
    resources = {name: need.value for name, need in sampler.needs.items()}
    with torch_threads(model.threads), user_code(sampler.method.name), user_code(sampler.guide):
        state, passes = run_chain(
            model, schedule, sampler.method.instance, streams, labels, resources=resources, device=request.device
        )
        with torch.no_grad():
            images = model.decode(state)
            finish = getattr(model, "finish", None)  # a cascade's second stage, never guided
            if finish is not None:
                images = finish(images, labels, streams, passes)
    return images, labels, dict(sorted(passes.items()))


def to_pixels(images: Tensor) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Nominal `[0, 1]` `(B, 3, H, W)` to uint8 `(H, W, 3)`: clamped, rounded to nearest, no stretching."""
    levels = (images.clamp(0.0, 1.0) * 255.0 + 0.5).floor().to(torch.uint8)
    return list(levels.permute(0, 2, 3, 1).cpu().numpy())


@lru_cache(maxsize=1)
def _sampler(request: SampleRequest, token: str) -> Sampler:
    """Opened once a process; `token` changes with the content of anything the request names."""
    return open_sampler(request)
