"""What a method prepares with: the benchmark's images, values computed over them, samples of the generator, training.

All of it works in the part's own folder and resumes: finished shards and the last checkpoint are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minoritybench.data.source import SourceSpec, open_source
from minoritybench.diffusion.model import DiffusionModel, requires_labels
from minoritybench.diffusion.schedule import Table, make_schedule
from minoritybench.engine.stage import run_stage
from minoritybench.errors import BadInputError
from minoritybench.methods import ConfiguredMethod
from minoritybench.microbatch import torch_threads
from minoritybench.needs import DISTANCE
from minoritybench.perceptual import weights_digest
from minoritybench.prepare.artefact import PREPARE_SEED, Prepared
from minoritybench.prepare.classifier import ARCHITECTURES, GuideClassifier, GuideConfig, architecture_for
from minoritybench.prepare.figures import held_out_figures
from minoritybench.prepare.images import FACTS as IMAGE_FACTS
from minoritybench.prepare.images import SHARD_SIZE, ImagesPlan, ImageStore, class_labels, image_shard, open_store
from minoritybench.prepare.inputs import DATASET, INPUTS, other_spec
from minoritybench.prepare.shards import (
    GENERATED,
    GENERATED_SHARD,
    VALUES,
    GeneratedPlan,
    Value,
    ValuesPlan,
    WorkPlan,
    generate_shard,
    values_shard,
)
from minoritybench.prepare.training import Task, TrainingRecipe, noised, train
from minoritybench.records import load_benchmark
from minoritybench.rng import derived_seed
from minoritybench.store import Receipts, digest_of

_IMAGENET_CLASSES = 1000
_PUBLISHED: dict[tuple[int, ...], str] = {(3, 64, 64): "adm-classifier-64", (3, 256, 256): "adm-classifier-256"}


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

    def images(self, *, labelled: bool = False, most: int = 0) -> ImageStore:
        """The benchmark's images, the ones that its generator models, with their classes where they have any; `most` of
        them, drawn at random, where there are more (0: all). With `labelled` a dataset without classes exits 2 before
        any image is read."""
        benchmark = load_benchmark(self._plan.benchmark)
        return self._store("images", SourceSpec(benchmark.dataset, self._plan.root, benchmark.split), most, labelled)

    def other_images(self, dataset: str, *, most: int = 0) -> ImageStore:
        """Images of another dataset (a registered name, or a folder), brought to the generator's shape. A known one
        whose files are absent exits 4."""
        spec = other_spec(dataset, self._plan.root)
        source = open_source(spec)
        fingerprint = source.fingerprint()
        if fingerprint == self.facts.get(DATASET, {}).get("sha256"):
            raise BadInputError(f"{self._plan.method}: {dataset} is the benchmark's own dataset; choose another")
        if source.spec.root is not None:
            self._tell_input(f"{DATASET}:{dataset}", fingerprint)
        return self._store("other", spec, most)

    def distance(self, name: str) -> None:
        """Say that images will be compared by a distance: absent weights exit 4 before any image is read, those that
        are there are noted."""
        digest = weights_digest(name)
        if digest is not None:
            self._tell_input(f"{DISTANCE}:{name}", digest)

    def generated(self, count: int, class_conditional: bool) -> ImageStore:
        """Images that the benchmark's generator draws by plain ancestral sampling."""
        plan = GeneratedPlan(self._plan, count, class_conditional)
        receipts = Receipts(self._folder, GENERATED, plan.token, IMAGE_FACTS)
        label = f"{self._plan.part}: sampling"
        facts = self._run(generate_shard, plan, -(-count // GENERATED_SHARD), receipts, label)
        self._tell_images(GENERATED, self._model.name, count)
        files = tuple(plan.file(shard) for shard in range(len(facts)))
        return ImageStore(files, tuple(len(fact["kept"]) for fact in facts), None, plan.token)

    def per_image(self, value: Value, store: ImageStore) -> NDArray[np.float64]:
        """A value for each image, float64 `(N,)`: `value` is a method of the sampling method, called in fixed
        micro-batches, without gradients, on as many workers as there are."""
        stage = f"{VALUES}-{value.__name__}"
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

    def published_classifier(self) -> GuideClassifier:
        """ADM's own classifier of noised ImageNet images, as a guide. Errors: a generator of other images exits 2, the
        absent file 4."""
        from minoritybench.prepare.adm import published_guide

        model = self._model
        name = _PUBLISHED.get(tuple(model.state_shape))
        if name is None or model.num_classes != _IMAGENET_CLASSES:
            raise BadInputError(
                f"{self._plan.method}: ADM's classifiers are of {_IMAGENET_CLASSES} ImageNet classes at 64 or 256 px,"
                f" not of what {model.name} draws: --set embedding=trained"
            )
        classifier, sha256 = published_guide(name, self._plan.device)
        self.facts["classifier"] = {"name": name, "sha256": sha256}
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

    def _store(self, stage: str, spec: SourceSpec, most: int, labelled: bool = False) -> ImageStore:
        source = open_source(spec)
        if labelled and class_labels(source) is None:
            raise BadInputError(
                f"{self._plan.method}: {self._plan.part} needs a dataset with class labels, {spec.name} has none"
            )
        token = digest_of([self._plan.token, source.spec.as_dict(), source.fingerprint(), most])
        shape = tuple(self._model.state_shape)
        plan = ImagesPlan(str(self._folder), token, f"pixels-{stage}", source.spec, shape, most)
        receipts = Receipts(self._folder, plan.stage, token, IMAGE_FACTS)
        shards = -(-len(plan.chosen(len(source.ids))) // SHARD_SIZE)
        store = open_store(plan, self._run(image_shard, plan, shards, receipts, f"{self._plan.part}: reading {stage}"))
        self._tell_images(stage, spec.name if spec.name != "folder" else "a folder", len(store))
        return store

    def _tell_input(self, name: str, sha256: str) -> None:
        """Note what the part depends on that its name says nothing of."""
        self.facts.setdefault(INPUTS, {})[name] = sha256

    def _tell_images(self, stage: str, origin: str, count: int) -> None:
        """Note for the metadata where images came from: nothing that differs between machines."""
        self.facts.setdefault("images", {})[stage] = {"from": origin, "images": count}

    def _run(
        self, worker: Callable[[Any, int], None], plan: Any, shards: int, receipts: Receipts, label: str
    ) -> list[dict[str, Any]]:
        work = self._plan
        options: dict[str, Any] = {"workers": work.workers, "engine": work.engine, "device": work.device}
        return run_stage(worker, plan, shards, receipts, label=label, **options)
