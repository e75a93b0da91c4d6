"""A sampling request made definite: what will be drawn, by which network and method, and what identifies it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from minoritybench.data.prompts import load_prompts
from minoritybench.diffusion.model import DiffusionModel, requires_labels
from minoritybench.diffusion.schedule import Schedule, make_schedule
from minoritybench.encoders import load_encoder
from minoritybench.engine import check_engine
from minoritybench.errors import BadInputError, MissingAssetError, all_or_absent
from minoritybench.methods import ConfiguredMethod, configure
from minoritybench.needs import ENCODER, PREPARED, Need, distance_names, open_distances
from minoritybench.perceptual import weights_digest
from minoritybench.presence import find
from minoritybench.records import BenchmarkSpec, load_benchmark
from minoritybench.registry import code_digests, resolve, user_code
from minoritybench.store import digest_of
from minoritybench.text_run import TextRun, open_text_run

_SAMPLE_FORMAT = 4
"""Raised whenever the same plan would give other images."""


@dataclass(frozen=True)
class SampleRequest:
    """What `sample` was asked for; None means the benchmark's default. `n` is per seed; `settings` may be given as a
    dict of hyperparameters; `compile` runs the generator through torch.compile. For text-to-image, `prompts` replaces
    the benchmark's prompt file and `chain` fields of its `TextSpec`, such as `guidance_scale`."""

    method: str
    benchmark: str = "digits"
    n: int | None = None
    seeds: tuple[int, ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()
    class_conditional: bool = False
    guide: str | None = None
    generator: str | None = None
    batch_size: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    workers: int = 1
    engine: str = "local"
    compile: bool = False
    prompts: str | None = None
    chain: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        seeds: Any = self.seeds if isinstance(self.seeds, Iterable) else (self.seeds,)  # Python callers give one, too
        object.__setattr__(self, "seeds", tuple(int(seed) for seed in seeds))
        for name in ("settings", "chain"):
            object.__setattr__(self, name, tuple(dict(getattr(self, name)).items()))
        if self.prompts is not None:
            object.__setattr__(self, "prompts", str(self.prompts))
        if self.batch_size is not None and self.batch_size < 1:
            raise BadInputError("--batch-size must be at least 1")
        if len(set(self.seeds)) != len(self.seeds) or not all(0 <= seed < 2**63 for seed in self.seeds):
            raise BadInputError("--seed values must be distinct, from 0 up and below 2^63")
        if self.n is not None and self.n < 1:
            raise BadInputError("--n must be at least 1")


@dataclass(frozen=True)
class SamplePlan:
    """What a worker needs to draw any shard, picklable. Shards run over seeds, then over blocks of images, of
    `shard_size`: what a kill can cost. `threads` is the torch thread count of a generator that names none of its own,
    None where it does and on a GPU."""

    out: str
    token: str
    request: SampleRequest
    n: int
    seeds: tuple[int, ...]
    shard_size: int
    threads: int | None

    @property
    def blocks(self) -> int:
        """Shards a seed."""
        return -(-self.n // self.shard_size)

    @property
    def shards(self) -> int:
        """Shards in all."""
        return self.blocks * len(self.seeds)

    def images(self, shard: int) -> tuple[int, range]:
        """Seed and image numbers of a shard."""
        seed, block = divmod(shard, self.blocks)
        return self.seeds[seed], range(block * self.shard_size, min((block + 1) * self.shard_size, self.n))


@dataclass(frozen=True)
class Sampler:
    """Everything opened for one plan."""

    benchmark: BenchmarkSpec
    generator: str
    model: DiffusionModel
    method: ConfiguredMethod
    needs: dict[str, Need]
    guide: str
    spacing: str
    class_conditional: bool
    text: TextRun | None = None

    def schedule(self) -> Schedule:
        """The respaced chain."""
        if self.text is not None:
            return self.text.schedule(self.benchmark.steps)
        return make_schedule(self.model.schedule, self.spacing, self.model.train_steps)

    def threads(self, request: SampleRequest) -> int | None:
        """The thread count that results on a CPU depend on, where the generator names none of its own."""
        return torch.get_num_threads() if self.model.threads is None and request.device == "cpu" else None

    def shard_size(self, request: SampleRequest) -> int:
        """Images of a shard: one micro-batch, or on a GPU as many as are asked for at a time, if those are more."""
        asked = None if request.device == "cpu" else request.batch_size
        return max(self.model.micro_batch, asked or 0)

    def facts(self, request: SampleRequest) -> dict[str, Any]:
        """The identity of what is sampled: two requests with equal facts give equal images."""
        guide = self.needs.get(ENCODER)
        threads, shard_size = self.threads(request), self.shard_size(request)
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
            "class_conditional": self.class_conditional,
            "device": request.device,
            **({} if threads is None else {"generator_threads": threads}),
            **({} if shard_size == self.model.micro_batch else {"images_at_once": shard_size}),
            **({"compile": True} if request.compile else {}),
            **({} if self.text is None else {"text": self.text.facts()}),
            "code": code_digests(request.method, self.generator, *([] if guide is None else [self.guide])),
        }


def make_plan(request: SampleRequest, out: Path) -> tuple[SamplePlan, dict[str, Any]]:
    """Check a request and fix the plan with the facts that identify it; nothing is drawn or written. Everything that is
    absent (weights, prompts) is told at once, exit 4."""
    try:
        sampler = open_sampler(request)
    except MissingAssetError as error:
        all_or_absent(partial(_told, error), *_finders(request))
        raise
    if sampler.text is not None:
        sampler.text.prompts.warn_of_blank_lines()
    n = sampler.benchmark.n if request.n is None else request.n
    seeds = request.seeds or tuple(sampler.benchmark.seeds)
    facts = {"kind": "sample", **sampler.facts(request), "n": n, "seeds": list(seeds)}
    shard_size, threads = sampler.shard_size(request), sampler.threads(request)
    return SamplePlan(str(out), digest_of(facts), request, n, seeds, shard_size, threads), facts


def _told(error: MissingAssetError) -> None:
    raise error


def _finders(request: SampleRequest) -> list[Callable[[], object]]:
    """What looks for each thing that sampling opens, one by one; a method's prepared parts are known by their generator
    and cannot be looked for without it."""
    benchmark = load_benchmark(request.benchmark)
    names = configure(request.method, dict(request.settings), benchmark).needs(request.class_conditional)
    finders: list[Callable[[], object]] = [partial(find, "generators", request.generator or benchmark.generator)]
    finders += [partial(weights_digest, name) for name in distance_names(names)]
    if ENCODER in names:
        finders.append(partial(find, "encoders", request.guide or benchmark.guide))
    if benchmark.text is not None:
        finders.append(partial(load_prompts, request.prompts or benchmark.text.prompts))
    return finders


def open_sampler(request: SampleRequest) -> Sampler:
    """Load the benchmark, the generator, the method and, where it needs one, the guide encoder."""
    benchmark = load_benchmark(request.benchmark)
    check_engine(request.engine, request.device)
    method = configure(request.method, dict(request.settings), benchmark)
    generator = request.generator or benchmark.generator
    model = open_generator(generator, request)
    conditional = draws_by_class(model, request.class_conditional)
    check_use(method, benchmark, conditional)
    guide = request.guide or benchmark.guide
    needs = _open_needs(method, benchmark, model, generator, guide, request, conditional)
    n = benchmark.n if request.n is None else request.n
    text = open_text_run(model, benchmark, n, request.prompts, dict(request.chain))
    own = getattr(method.instance, "spacing", "") if text is None else text.spec.spacing
    spacing = f"{own}{benchmark.steps}"
    return Sampler(benchmark, generator, model, method, needs, guide, spacing, conditional, text)


def draws_by_class(model: DiffusionModel, asked: bool) -> bool:
    """Whether images are drawn with class labels: because it was asked for, or because the network knows no other way.
    Asked of an unconditional model exits 2."""
    if asked and model.num_classes is None:
        raise BadInputError(f"--class-conditional: {model.name} is unconditional")
    return asked or requires_labels(model)


def check_use(method: ConfiguredMethod, benchmark: BenchmarkSpec, class_conditional: bool) -> None:
    """Let the method's `check_use(benchmark, class_conditional)`, if it has one, refuse before anything is computed."""
    refuse = getattr(method.instance, "check_use", None)
    if refuse is not None:
        with user_code(method.name):
            refuse(benchmark, class_conditional)


def open_generator(name: str, request: SampleRequest) -> DiffusionModel:
    """A generator on the request's device, in its precision."""
    options = {"device": request.device, "dtype": request.dtype, **({"compile": True} if request.compile else {})}
    with user_code(name):
        model: DiffusionModel = resolve("generators", name)(name, **options)
    return model


def _open_needs(
    method: ConfiguredMethod,
    benchmark: BenchmarkSpec,
    model: DiffusionModel,
    generator: str,
    guide: str,
    request: SampleRequest,
    conditional: bool,
) -> dict[str, Need]:
    """Everything the method asks for, checked before the first step."""
    names = method.needs(conditional)
    needs = open_distances(names, request.device)
    for name in sorted(name for name in names if name.startswith(f"{PREPARED}:")):
        from minoritybench.prepare import open_prepared

        needs[name] = open_prepared(name.partition(":")[2], method, benchmark, model, generator, request.device)
    if ENCODER in names:
        encoder = load_encoder(guide, device=request.device)
        needs[ENCODER] = Need(encoder, getattr(encoder, "weights_sha256", None))
    return needs
