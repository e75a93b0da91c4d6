"""What a method prepares with: the benchmark's images, values computed over them, samples of the generator, training.

All of it works in the part's own folder and resumes: finished shards and the last checkpoint are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minoritybench.data.catalogue import known
from minoritybench.data.source import SourceSpec, open_source, spec_from_argument
from minoritybench.diffusion.loop import run_chain
from minoritybench.diffusion.model import DiffusionModel, requires_labels
from minoritybench.diffusion.schedule import Schedule, Table, make_schedule
from minoritybench.diffusion.step import Method
from minoritybench.engine.stage import run_stage
from minoritybench.errors import BadInputError
from minoritybench.methods import ConfiguredMethod, configure
from minoritybench.microbatch import pad_rows, torch_threads
from minoritybench.perceptual import Distance, open_distance
from minoritybench.prepare.artefact import PREPARE_SEED, Prepared
from minoritybench.prepare.classifier import ARCHITECTURES, GuideClassifier, GuideConfig, architecture_for
from minoritybench.prepare.figures import held_out_figures
from minoritybench.prepare.images import FACTS as IMAGE_FACTS
from minoritybench.prepare.images import SHARD_SIZE, ImagesPlan, ImageStore, class_labels, image_shard, open_store
from minoritybench.prepare.training import Task, TrainingRecipe, noised, train
from minoritybench.records import load_benchmark
from minoritybench.registry import user_code
from minoritybench.rng import ImageStreams, derived_seed
from minoritybench.sample_job import SampleRequest, open_generator
from minoritybench.sample_shard import LABEL_STREAM
from minoritybench.store import Receipts, atomic_path, digest_of

GENERATED_SHARD = 128
GENERATED_SEED = 900
"""No benchmark samples with it, and no setting was chosen on it."""
_GENERATED = "generated"
_VALUES = "values"


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


class Kit:
    """The tools of one part's preparation. `facts` collects what metadata should tell."""

    def __init__(self, plan: WorkPlan, method: ConfiguredMethod, model: DiffusionModel) -> None:
        self._plan = plan
        self._method = method
        self._model = model
        self._folder = Path(plan.work)
        self.facts: dict[str, Any] = {}

    @property
    def requires_labels(self) -> bool:
        """Whether the generator is a network that has no unconditional mode."""
        return requires_labels(self._model)

    def images(self, *, labelled: bool = False) -> ImageStore:
        """The benchmark's images, the ones that its generator models, with their classes where they have any. With
        `labelled` a dataset without classes exits 2 before any image is read."""
        benchmark = load_benchmark(self._plan.benchmark)
        return self._store("images", SourceSpec(benchmark.dataset, self._plan.root, benchmark.split), labelled)

    def other_images(self, dataset: str) -> ImageStore:
        """Images of another dataset (a registered name, or a folder), brought to the generator's shape. A known one
        whose files are absent exits 4."""
        return self._store("other", other_spec(dataset, self._plan.root))

    def generated(self, count: int, class_conditional: bool) -> ImageStore:
        """Images that the benchmark's generator draws by plain ancestral sampling."""
        plan = GeneratedPlan(self._plan, count, class_conditional)
        receipts = Receipts(self._folder, _GENERATED, plan.token, IMAGE_FACTS)
        label = f"{self._plan.part}: sampling"
        facts = self._run(generate_shard, plan, -(-count // GENERATED_SHARD), receipts, label)
        self._tell_images(_GENERATED, self._model.name, count)
        files = tuple(plan.file(shard) for shard in range(len(facts)))
        return ImageStore(files, tuple(len(fact["kept"]) for fact in facts), None, plan.token)

    def per_image(self, value: Value, store: ImageStore) -> NDArray[np.float64]:
        """A value for each image, float64 `(N,)`: `value` is a method of the sampling method, called in fixed
        micro-batches, without gradients, on as many workers as there are."""
        stage = f"{_VALUES}-{value.__name__}"
        plan = ValuesPlan(self._plan, value.__name__, store, digest_of([self._plan.token, store.token, stage]))
        receipts = Receipts(self._folder, stage, plan.token, frozenset({"images"}))
        shards = -(-len(store) // SHARD_SIZE)
        self._run(values_shard, plan, shards, receipts, f"{self._plan.part}: {value.__name__.replace('_', ' ')}")
        return np.concatenate([np.load(plan.file(shard)) for shard in range(shards)])

    def train(
        self,
        store: ImageStore,
        targets: NDArray[np.int64],
        outputs: int,
        recipe: TrainingRecipe,
        *,
        labels: NDArray[np.int64] | None = None,
    ) -> GuideClassifier:
        """Train a classifier of noised images to tell `targets`; with `labels`, given the class of each image. Its
        figures on held-out images go into `facts`."""
        model = self._model
        shape = tuple(model.state_shape)
        classes = None if labels is None else model.num_classes
        task = Task(
            GuideConfig(architecture_for(shape), shape, outputs, classes),
            store,
            targets,
            labels,
            self._chain,
            recipe,
            PREPARE_SEED,
            self._plan.device,
        )
        with torch_threads(model.threads):
            classifier = train(task, self._folder, f"{self._plan.part}: training")
            self.facts["held_out"] = held_out_figures(classifier, task)
        return classifier

    def finished(self, classifier: GuideClassifier, **tensors: Tensor) -> Prepared:
        """The part, its tensors rounded to the precision in which they are stored, with what was noted about it."""
        stored = ARCHITECTURES[classifier.config.architecture].stored
        return Prepared(classifier, {name: value.to(stored) for name, value in tensors.items()}, self.facts)

    def feature_draws(
        self, store: ImageStore, band: int, bands: int, count: int
    ) -> tuple[NDArray[np.int64], torch.Generator]:
        """The images `(count,)` that `noised_features` draws, and the generator of what it draws next."""
        generator = torch.Generator().manual_seed(derived_seed(PREPARE_SEED, "features", band, bands))
        return torch.randint(len(store), (count,), generator=generator).numpy(), generator

    @torch.no_grad()
    def noised_features(
        self, classifier: GuideClassifier, store: ImageStore, band: int, bands: int, count: int
    ) -> tuple[Tensor, Tensor]:
        """Features `(count, d)` of images drawn at random and noised to timesteps drawn from one of `bands` equal parts
        of the chain, and the images' classes `(count,)`; both on the CPU."""
        if store.labels is None:
            raise BadInputError(f"{self._plan.method}: {self._plan.part} needs a dataset with class labels")
        steps = self._model.train_steps
        low, high = -(-band * steps // bands), -(-(band + 1) * steps // bands)
        drawn, generator = self.feature_draws(store, band, bands, count)
        features: list[Tensor] = []
        with torch_threads(self._model.threads):
            for start in range(0, count, self._model.micro_batch):
                block = drawn[start : start + self._model.micro_batch]
                timestep = torch.randint(low, high, (len(block),), generator=generator)
                x_t = noised(self._chain, store.take(block), timestep, generator).to(self._plan.device)
                features.append(classifier.features(x_t, timestep.to(self._plan.device)).cpu())
        return torch.cat(features), torch.from_numpy(store.labels[drawn])

    @property
    def classes(self) -> int:
        """Number of classes of a class-conditional generator; without any exits 2."""
        if self._model.num_classes is None:
            raise BadInputError(f"--class-conditional: {self._model.name} is unconditional")
        return self._model.num_classes

    @cached_property
    def _chain(self) -> Table:
        """Cumulative alphas of the generator's whole training chain."""
        model = self._model
        return make_schedule(model.schedule, str(model.train_steps), model.train_steps).alphas_cumprod

    def _store(self, stage: str, spec: SourceSpec, labelled: bool = False) -> ImageStore:
        source = open_source(spec)
        if labelled and class_labels(source) is None:
            raise BadInputError(
                f"{self._plan.method}: {self._plan.part} needs a dataset with class labels, {spec.name} has none"
            )
        token = digest_of([self._plan.token, source.spec.as_dict(), source.fingerprint()])
        plan = ImagesPlan(str(self._folder), token, f"pixels-{stage}", source.spec, tuple(self._model.state_shape))
        receipts = Receipts(self._folder, plan.stage, token, IMAGE_FACTS)
        shards = -(-len(source.ids) // SHARD_SIZE)
        store = open_store(plan, self._run(image_shard, plan, shards, receipts, f"{self._plan.part}: reading {stage}"))
        self._tell_images(stage, spec.name if spec.name != "folder" else "a folder", len(store))
        return store

    def _tell_images(self, stage: str, origin: str, count: int) -> None:
        """Note for the metadata where images came from: nothing that differs between machines."""
        self.facts.setdefault("images", {})[stage] = {"from": origin, "images": count}

    def _run(
        self, worker: Callable[[Any, int], None], plan: Any, shards: int, receipts: Receipts, label: str
    ) -> list[dict[str, Any]]:
        work = self._plan
        options: dict[str, Any] = {"workers": work.workers, "engine": work.engine, "device": work.device}
        return run_stage(worker, plan, shards, receipts, label=label, **options)


def other_spec(dataset: str, root: str | None) -> SourceSpec:
    """The source of a dataset that a setting names: registered, with its files under `root`, or a folder."""
    return spec_from_argument(dataset, None if known(dataset) is None else root, None, None)


@dataclass(frozen=True)
class GeneratedPlan:
    """What a worker needs to draw any shard of `count` images."""

    work: WorkPlan
    count: int
    class_conditional: bool

    @property
    def token(self) -> str:
        """Stands for what is drawn."""
        return digest_of([self.work.token, _GENERATED, self.count, self.class_conditional, GENERATED_SEED])

    def file(self, shard: int) -> Path:
        """Where the pixels of a shard lie."""
        return Path(self.work.work) / "shards" / f"{_GENERATED}-{shard:06d}.npy"


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
    receipts = Receipts(Path(plan.work.work), _GENERATED, plan.token)
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
        return Path(self.work.work) / "shards" / f"{_VALUES}-{self.function}-{shard:06d}.npy"


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
    receipts = Receipts(Path(plan.work.work), f"{_VALUES}-{plan.function}", plan.token)
    receipts.write(shard, [file], {"images": last - shard * SHARD_SIZE})


@lru_cache(maxsize=1)
def _opened(plan: WorkPlan) -> tuple[ConfiguredMethod, DiffusionModel]:
    """Method and generator, opened once a process."""
    benchmark = load_benchmark(plan.benchmark)
    request = SampleRequest("adm", plan.benchmark, device=plan.device)
    return configure(plan.method, dict(plan.settings), benchmark), open_generator(plan.generator, request)
