"""`minoritybench prepare METHOD`: build the parts that a method needs before it can sample."""

from __future__ import annotations

import dataclasses
import logging
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from minoritybench.data.source import SourceSpec, open_source
from minoritybench.diffusion.model import DiffusionModel
from minoritybench.engine import check_engine
from minoritybench.errors import BadInputError, MissingAssetError
from minoritybench.methods import DEFAULT_PRESET, ConfiguredMethod, configure
from minoritybench.needs import PREPARED, Need
from minoritybench.prepare.artefact import (
    Identity,
    identity_of,
    load_prepared,
    read_document,
    save_prepared,
)
from minoritybench.prepare.classifier import architecture_for
from minoritybench.prepare.inputs import check_data, check_weights
from minoritybench.prepare.kit import Kit
from minoritybench.prepare.shards import WorkPlan
from minoritybench.records import BenchmarkSpec, load_benchmark
from minoritybench.registry import code_digests, user_code
from minoritybench.sample_job import SampleRequest, check_use, draws_by_class, open_generator
from minoritybench.store import digest_of, folder_lock, open_output, sha256_file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrepareRequest:
    """What `prepare` was asked for. `generator` is the benchmark's where None; `root` is where the datasets' files lie;
    `folder` where the parts go, if not into the cache; `force` builds anew what is there."""

    method: str
    benchmark: str = "digits"
    generator: str | None = None
    settings: tuple[tuple[str, Any], ...] = ()
    class_conditional: bool = False
    root: str | None = None
    device: str = "cpu"
    workers: int = 1
    engine: str = "local"
    force: bool = False
    folder: Path | None = None


@dataclass(frozen=True)
class PartJob:
    """One part to be had: where it is or will be, and whether it is there."""

    identity: Identity
    path: Path
    there: bool

    def as_dict(self) -> dict[str, Any]:
        """For `--dry-run`."""
        return {**self.identity.as_dict(), "path": str(self.path), "there": self.there}


@dataclass(frozen=True)
class PartOutcome:
    """A part that is there: its file, digest, whether it was built now, in how many seconds, and what it says of
    itself: images and held-out figures."""

    part: str
    path: Path
    sha256: str
    built: bool
    seconds: float
    facts: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "part": self.part,
            "path": str(self.path),
            "sha256": self.sha256,
            "built": self.built,
            "seconds": self.seconds,
            "facts": dict(self.facts),
        }


def plan_parts(request: PrepareRequest) -> list[PartJob]:
    """The parts of a request, in order of name; nothing is computed. A method without any gives none."""
    check_engine(request.engine, request.device)
    benchmark = load_benchmark(request.benchmark)
    method = configure(request.method, dict(request.settings), benchmark)
    model = _generator(request, benchmark)
    conditional = draws_by_class(model, request.class_conditional)
    check_use(method, benchmark, conditional)
    jobs = []
    parts = part_names(method, conditional)
    if parts:
        architecture_for(tuple(model.state_shape))  # refused now rather than once every image is scored
    for part in parts:
        identity = part_identity(part, method, benchmark, model, request.generator or benchmark.generator)
        if request.folder is not None:
            target = request.folder / identity.file_name
            jobs.append(PartJob(identity, target, target.is_file() and not request.force))
            continue
        found = None if request.force else identity.find()
        jobs.append(PartJob(identity, found or identity.cached(), found is not None))
    return jobs


def prepare_parts(request: PrepareRequest) -> list[PartOutcome]:
    """Build the parts that are not there yet. A killed run goes on where it was."""
    return [_have(request, job) for job in plan_parts(request)]


def _have(request: PrepareRequest, job: PartJob) -> PartOutcome:
    started = perf_counter()
    work = job.path.with_suffix("")
    if not job.there:
        _build(request, job, work)
    if (work / "plan.json").is_file():  # left by a run that was killed after its last step
        with folder_lock(work):
            _clear(work)
    facts = read_document(job.path)["facts"]
    if job.there:
        check_data(job.path, facts, load_benchmark(request.benchmark), request.root)
    seconds = 0.0 if job.there else perf_counter() - started
    return PartOutcome(job.identity.part, job.path, sha256_file(job.path), not job.there, seconds, facts)


def _build(request: PrepareRequest, job: PartJob, work: Path) -> None:
    benchmark = load_benchmark(request.benchmark)
    method = configure(request.method, dict(request.settings), benchmark)
    source = open_source(SourceSpec(benchmark.dataset, request.root, benchmark.split))
    facts = {
        "kind": "prepare",
        **job.identity.as_dict(),
        "dataset": {**source.spec.as_dict(), "fingerprint": source.fingerprint()},
        "device": request.device,
    }
    log.info("%s: building %s", request.method, job.identity.part)
    with folder_lock(work):
        open_output(work, facts, force=request.force)
        plan = WorkPlan(
            str(work),
            digest_of(facts),
            request.method,
            request.settings,
            request.benchmark,
            request.generator or benchmark.generator,
            job.identity.part,
            request.root,
            request.device,
            request.workers,
            request.engine,
        )
        kit = Kit(plan, method, _generator(request, benchmark))
        kit.facts["dataset"] = {"name": benchmark.dataset, "split": benchmark.split, "sha256": source.fingerprint()}
        with user_code(request.method):
            prepared = method.instance.prepare(job.identity.part, kit)
        save_prepared(job.path, job.identity, prepared)


def _clear(work: Path) -> None:
    """Remove the working folder of a part that is done."""
    shutil.rmtree(work)


def _generator(request: PrepareRequest, benchmark: BenchmarkSpec) -> DiffusionModel:
    name = request.generator or benchmark.generator
    return open_generator(name, SampleRequest(request.method, request.benchmark, device=request.device))


def part_names(method: ConfiguredMethod, class_conditional: bool) -> list[str]:
    """The parts among a method's needs."""
    needs = method.needs(class_conditional)
    return sorted(name.partition(":")[2] for name in needs if name.startswith(f"{PREPARED}:"))


def part_identity(
    part: str, method: ConfiguredMethod, benchmark: BenchmarkSpec, model: DiffusionModel, generator: str
) -> Identity:
    """What a part is. The method's `parts` names the hyperparameters that it depends on; `generator` is the name that
    `model` was opened by, for one of a user's file depends on that file."""
    parts: Mapping[str, tuple[str, ...]] = getattr(method.instance, "parts", {})
    if part not in parts or not hasattr(method.instance, "prepare"):
        raise BadInputError(f"method {method.name!r} needs {PREPARED}:{part} but does not say how it is prepared")
    later: frozenset[str] = getattr(method.instance, "later", frozenset())
    settings = {name: method.params[name] for name in parts[part] if name in method.params or name not in later}
    return identity_of(method.name, part, benchmark.name, model, settings, code_digests(method.name, generator))


def open_prepared(
    name: str,
    method: ConfiguredMethod,
    benchmark: BenchmarkSpec,
    model: DiffusionModel,
    generator: str,
    device: str,
) -> Need:
    """The part `name` of a method, shipped or prepared, for exactly these settings and generator weights; exit 4 with
    the command that builds it where there is none."""
    identity = part_identity(name, method, benchmark, model, generator)
    path = identity.find()
    if path is None:
        raise MissingAssetError(
            f"{method.name}: its part {name!r} is not prepared for {benchmark.name} with these settings; run"
            f" `{prepare_command(name, method, benchmark, generator)}`"
        )
    prepared = load_prepared(path, identity, device)
    check_weights(path, prepared.facts)
    return Need(prepared, sha256_file(path))


def prepare_command(part: str, method: ConfiguredMethod, benchmark: BenchmarkSpec, generator: str) -> str:
    """The command that builds a part with the settings of `method` for a generator."""
    words = ["minoritybench", "prepare", method.name, "--benchmark", benchmark.name]
    if generator != benchmark.generator:
        words += ["--generator", generator]
    preset = {} if method.preset == DEFAULT_PRESET else {"preset": method.preset}
    asked = {f.name: method.params[f.name] for f in dataclasses.fields(method.instance) if _has_no_default(f)}
    usual = configure(method.name, {**preset, **asked}, benchmark).params
    changed = {key: value for key, value in method.params.items() if key not in usual or value != usual[key]}
    for key, value in {**preset, **asked, **changed}.items():
        words += ["--set", f"{key}={value}"]
    if part not in part_names(method, False):
        words.append("--class-conditional")
    return shlex.join(words)


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
