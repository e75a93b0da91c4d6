"""An evaluation request made definite: what will be measured, by whom, against what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from minoritybench.data.prompts import Prompts
from minoritybench.encoders import load_encoder
from minoritybench.encoders.base import encoder_facts
from minoritybench.engine import check_engine
from minoritybench.errors import BadInputError, MissingAssetError, all_or_absent
from minoritybench.features import Extractor, extractor_facts, load_extractor
from minoritybench.given_samples import given_prompts, open_samples
from minoritybench.measures import Judges, extractor_names
from minoritybench.presence import benchmark_parts
from minoritybench.records import BenchmarkSpec, load_benchmark
from minoritybench.references import LoadedReference, load_reference_set
from minoritybench.registry import code_digests
from minoritybench.sample_job import SampleRequest, make_plan
from minoritybench.store import digest_of
from minoritybench.text_metrics import text_choices


@dataclass(frozen=True)
class EvaluateRequest:
    """What `evaluate` was asked for: a method to sample with (`sample`), or `samples` made elsewhere."""

    sample: SampleRequest
    samples: Path | None = None
    reference: str | None = None
    judges: tuple[str, ...] = ()
    out: Path | None = None
    workers: int = 1
    force: bool = False
    command: str = "minoritybench.evaluate"
    minmax_stretch: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("samples", Path), ("out", Path), ("reference", str), ("judges", tuple)):
            value = getattr(self, name)
            if value is not None:  # Python callers pass paths as text and judges as a list
                object.__setattr__(self, name, kind(value))
        if bool(self.sample.method) == (self.samples is not None):
            raise BadInputError("give either --method or --samples")
        if self.samples is not None and self.sample.dtype != "float32":
            raise BadInputError(f"--dtype {self.sample.dtype}: samples are measured in float32 only")
        asked = self.sample
        how = [asked.settings, asked.seeds, asked.class_conditional, asked.generator, asked.chain]
        if self.samples is not None and any(how):
            raise BadInputError(
                "--set, --seed, --chain, --generator and --class-conditional say how to sample; --samples are drawn"
                " already"
            )


@dataclass(frozen=True)
class EvaluateJob:
    """A request made definite: nothing has been computed or written yet."""

    request: EvaluateRequest
    benchmark: BenchmarkSpec
    reference: LoadedReference
    extractors: dict[str, Extractor]
    judges: Judges
    text: Mapping[str, str | None]
    """Weights of the models of image and prompt, by the key of their metric."""
    plan: dict[str, Any]
    out: Path


def prepare_job(request: EvaluateRequest) -> EvaluateJob:
    """Check a request, load what it names and fix its plan. Everything that is absent (weights, data, reference set) is
    told at once, exit 4."""
    check_engine(request.sample.engine, request.sample.device)
    try:
        return _prepared(request)
    except MissingAssetError:
        all_or_absent(*_openers(request))
        raise


def _prepared(request: EvaluateRequest) -> EvaluateJob:
    benchmark = load_benchmark(request.sample.benchmark)
    facts = _sample_facts(request)
    n = facts["n"] if request.samples is None else facts["samples"]["n"]
    least = benchmark.manifold_k + 2
    reference = load_reference_set(request.reference or benchmark.reference_set)
    for count, what in (
        (n, "samples (--n)"),
        (reference.recipe.n, f"images of {reference.recipe.name!r} (--reference)"),
    ):
        if count < least:
            raise BadInputError(f"{count} {what} are too few: precision and coverage need {least}")
    extractors = {name: load_extractor(name, request.sample.device) for name in extractor_names(benchmark)}
    described = {name: extractor_facts(extractor) for name, extractor in extractors.items()}
    scorers = {choice.key: choice.open(request.sample.device) for choice in text_choices(benchmark)}
    own = all(fact["threads"] for fact in described.values()) and all(scorer.threads for scorer in scorers.values())
    judges = _judges(request, benchmark, reference, own)
    text = {key: scorer.weights_sha256 for key, scorer in scorers.items()}
    reference.source()
    plan = {
        **facts,
        "kind": "evaluate",
        "minmax_stretch": request.minmax_stretch,
        "benchmark": benchmark.name,
        "benchmark_sha256": digest_of(benchmark.model_dump(mode="json", exclude={"title", "notes"})),
        "features": described,
        "reference_set": reference.recipe.sha256,
        "judges": dict(judges.weights),
        "judge_threads": judges.threads,
        "guide_judge": judges.guide,
        **({"text_metrics": text} if text else {}),
        "code": {**facts.get("code", {}), **code_digests(*judges.weights, *extractors)},
    }
    name = request.sample.method.rpartition(":")[2] or "samples"
    out = request.out or Path("runs") / f"{benchmark.name}-{name}-{digest_of(plan)[:12]}"
    return EvaluateJob(request, benchmark, reference, extractors, judges, text, plan, out)


def _openers(request: EvaluateRequest) -> list[Callable[[], object]]:
    """Everything an evaluation opens, one by one."""
    benchmark = load_benchmark(request.sample.benchmark)
    asked = request.sample
    parts = benchmark_parts(
        benchmark, guide=asked.guide, judges=request.judges, reference=request.reference, prompts=asked.prompts
    )
    return [lambda: _sample_facts(request), *(partial(part.open, asked.device) for part in parts)]


def _judges(request: EvaluateRequest, benchmark: BenchmarkSpec, reference: LoadedReference, own: bool) -> Judges:
    """The guide scores as such; every other encoder of the benchmark, the reference set and `--judge` is held out.
    `own`: whether all extractors and scorers name threads of their own."""
    guide = request.sample.guide or benchmark.guide
    ranked_by = [reference.recipe.encoder["name"]] if reference.recipe.rank_by == "jepa" else []
    others = [name for name in dict.fromkeys([*ranked_by, *benchmark.judges, *request.judges]) if name != guide]
    facts = {name: encoder_facts(load_encoder(name, device=request.sample.device), name) for name in [guide, *others]}
    own = own and all(fact["threads"] is not None for fact in facts.values())
    return Judges(
        guide,
        tuple(others),
        {name: fact["weights_sha256"] for name, fact in facts.items()},
        threads=None if own else torch.get_num_threads(),
    )


def _sample_facts(request: EvaluateRequest) -> dict[str, Any]:
    if request.samples is None:
        return make_plan(request.sample, Path())[1]
    source = open_samples(request.samples, request.sample.n)
    facts = {"samples": {"n": len(source.ids), "fingerprint": source.fingerprint()}, "device": request.sample.device}
    prompts = prompts_of_samples(request, load_benchmark(request.sample.benchmark))
    return facts if prompts is None else {**facts, "text": {"prompts": prompts.name, "prompts_sha256": prompts.sha256}}


def prompts_of_samples(request: EvaluateRequest, benchmark: BenchmarkSpec) -> Prompts | None:
    """The prompts of `--samples`, one an image in the order in which they are measured; None without prompts.

    Errors: `--prompts` on a benchmark without them, and prompts that do not fit the images (exit 2).
    """
    asked = request.sample
    if benchmark.text is None:
        if asked.prompts is not None:
            raise BadInputError(f"--prompts: benchmark {benchmark.name!r} is no text-to-image one")
        return None
    if request.samples is None:
        return None
    return given_prompts(request.samples, asked.n, asked.prompts, benchmark.text.prompts)
