"""Training a classifier of noised images: seeded step by step, so that a resumed run ends with the bytes of an
unbroken one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from minoritybench.diffusion.schedule import Table
from minoritybench.errors import BadInputError
from minoritybench.prepare.classifier import ARCHITECTURES, GuideClassifier, GuideConfig
from minoritybench.prepare.images import ImageStore
from minoritybench.progress import track
from minoritybench.rng import derived_seed
from minoritybench.store import atomic_path, digest_of, sha256_bytes

Augmentation = Literal["crop-flip", "crop", "none"]
CHECKPOINT = "checkpoint.pt"
_CHECKPOINT_SHARE = 0.05
_LEAST_CROP = 0.8
_GRADIENT_NORM = 1.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingRecipe:
    """Hyperparameters of a classifier's training, to be inherited by a method: AdamW on balanced batches, its rate
    falling linearly to 0 and gradients clipped at norm 1 (an own choice), on images noised to uniformly drawn timesteps
    of the generator's whole chain; `held_out` is the stratified share that is never trained on; `augment` crops to 0.8
    to 1 of the area, or flips as well."""

    iterations: int = 60_000
    batch_size: int = 256
    learning_rate: float = 3e-4
    weight_decay: float = 0.05
    held_out: float = 0.05
    augment: Augmentation = "crop-flip"

    def check(self, method: str) -> None:
        """Refuse what cannot be trained with."""
        if self.iterations < 1 or self.batch_size < 1 or not 0.0 < self.held_out < 1.0:
            raise BadInputError(
                f"{method}: iterations and batch_size must be at least 1 and held_out lie in (0, 1), not"
                f" {self.iterations}, {self.batch_size}, {self.held_out}"
            )
        if not self.learning_rate > 0 or self.weight_decay < 0:
            raise BadInputError(
                f"{method}: learning_rate must be positive and weight_decay at least 0, not"
                f" {self.learning_rate}, {self.weight_decay}"
            )


RECIPE_FIELDS = ("iterations", "batch_size", "learning_rate", "weight_decay", "held_out", "augment")


@dataclass(frozen=True)
class Task:
    """What is learnt: `targets` int64 `(N,)` of the images in `store`, and `labels`, the class that the classifier is
    given beside the image where `config.classes` says so. `alphas_cumprod` is the generator's whole chain."""

    config: GuideConfig
    store: ImageStore
    targets: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    alphas_cumprod: Table
    recipe: TrainingRecipe
    seed: int
    device: str

    @property
    def token(self) -> str:
        """Stands for what is learnt and how."""
        arrays = [None if a is None else sha256_bytes(a.tobytes()) for a in (self.targets, self.labels)]
        recipe = {name: getattr(self.recipe, name) for name in RECIPE_FIELDS}
        return digest_of([self.config.as_dict(), self.store.token, arrays, recipe, self.seed])

    def split(self) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
        """Indices to train on, a list a target, and those held out: a share of each target, drawn by the seed."""
        train, held = [], []
        for target in range(self.config.outputs):
            members = np.flatnonzero(self.targets == target)
            if len(members) < 2:
                raise BadInputError(
                    f"a classifier of {self.config.outputs} outputs has {len(members)} images for output {target};"
                    " choose fewer levels or prepare from more images"
                )
            shuffle = np.random.RandomState(derived_seed(self.seed, "held-out", target) % 2**32).permutation
            order = members[shuffle(len(members))]
            cut = min(max(1, round(self.recipe.held_out * len(members))), len(members) - 1)
            held.append(order[:cut])
            train.append(np.sort(order[cut:]))
        return train, np.sort(np.concatenate(held))

    def batch_labels(self, indices: NDArray[np.int64]) -> Tensor | None:
        """Classes of the images `indices`, if the classifier is given them."""
        if self.config.classes is None or self.labels is None:
            return None
        return torch.from_numpy(self.labels[indices]).to(self.device)


def noised(alphas_cumprod: Table, x0: Tensor, timestep: Tensor, generator: torch.Generator) -> Tensor:
    """`x0` float32 `(B, C, H, W)` as q(x_t | x_0) leaves it at original timesteps `(B,)` of a chain; on the CPU."""
    bar = torch.from_numpy(alphas_cumprod)[timestep].view(-1, *[1] * (x0.ndim - 1))
    return bar.sqrt().float() * x0 + (1 - bar).sqrt().float() * torch.randn(x0.shape, generator=generator)


def train(task: Task, folder: Path, label: str) -> GuideClassifier:
    """Train to the end, from the checkpoint in `folder` if there is one; frozen, in evaluation mode, its weights
    rounded to the precision in which they are stored."""
    members, _ = task.split()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(task.seed, "weights"))
        net = GuideClassifier(task.config).to(task.device)
    recipe = task.recipe
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    checkpoint = Checkpoint(folder / CHECKPOINT, task.token, net, optimiser)
    start = checkpoint.load()
    if start:
        log.info("%s: resuming at step %d of %d", label, start, recipe.iterations)
    for _ in track(
        _steps(task, net, optimiser, checkpoint, members, start), total=recipe.iterations, done=start, label=label
    ):
        pass
    stored = ARCHITECTURES[task.config.architecture].stored
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(parameter.to(stored))
    return net.eval().requires_grad_(False)


def _steps(
    task: Task,
    net: GuideClassifier,
    optimiser: torch.optim.Optimizer,
    checkpoint: Checkpoint,
    members: list[NDArray[np.int64]],
    start: int,
) -> Iterator[int]:
    """The optimiser's steps. Each draws from a generator of its own, so none depends on where the run was resumed."""
    recipe = task.recipe
    net.train()
    for step in range(start, recipe.iterations):
        generator = torch.Generator().manual_seed(derived_seed(task.seed, "step", step))
        indices = balanced_indices(members, recipe.batch_size, generator)
        x0 = augmented(task.store.take(indices), recipe.augment, generator)
        timestep = torch.randint(len(task.alphas_cumprod), (len(indices),), generator=generator)
        x_t = noised(task.alphas_cumprod, x0, timestep, generator).to(task.device)
        logits = net(x_t, timestep.to(task.device), task.batch_labels(indices))
        loss = F.cross_entropy(logits, torch.from_numpy(task.targets[indices]).to(task.device))
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * (1 - step / recipe.iterations)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), _GRADIENT_NORM)
        optimiser.step()
        checkpoint.save_if_due(step + 1)
        yield step
    checkpoint.save(recipe.iterations)


class Checkpoint:
    """Weights and optimiser state after a number of steps, written atomically whenever the time since the last one
    makes the writing a small share of it."""

    def __init__(self, path: Path, token: str, net: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        self._path = path
        self._token = token
        self._net = net
        self._optimiser = optimiser
        self._saved_at = perf_counter()
        self._cost = 0.05

    def load(self) -> int:
        """Restore, and return how many steps are done; 0 where there is nothing to restore, or that of another task."""
        if not self._path.is_file():
            return 0
        try:
            state: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
            if state["token"] != self._token:
                return 0
            self._net.load_state_dict(state["net"])
            self._optimiser.load_state_dict(state["optimiser"])
            return int(state["step"])
        except (OSError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BadInputError(f"{self._path} cannot be resumed from ({reason}); --force starts over") from error

    def save_if_due(self, step: int) -> None:
        """Write one if the last was long enough ago."""
        if perf_counter() - self._saved_at > self._cost / _CHECKPOINT_SHARE:
            self.save(step)

    def save(self, step: int) -> None:
        """Write one now."""
        started = perf_counter()
        state = {
            "token": self._token,
            "step": step,
            "net": self._net.state_dict(),
            "optimiser": self._optimiser.state_dict(),
        }
        with atomic_path(self._path) as part:
            torch.save(state, part)
        self._saved_at = perf_counter()
        self._cost = max(self._saved_at - started, 0.05)


def balanced_indices(members: list[NDArray[np.int64]], count: int, generator: torch.Generator) -> NDArray[np.int64]:
    """`count` images: a target drawn uniformly, then one of its members."""
    targets = torch.randint(len(members), (count,), generator=generator).tolist()
    places = torch.rand(count, generator=generator, dtype=torch.float64).tolist()
    return np.array([members[t][int(p * len(members[t]))] for t, p in zip(targets, places, strict=True)], np.int64)


def augmented(x0: Tensor, kind: Augmentation, generator: torch.Generator) -> Tensor:
    """A random square crop of 0.8 to 1 of each image's area, brought back to size, and for `crop-flip` a mirror image
    of every second one on average. `x0` float32 `(B, C, H, W)`."""
    if kind == "none":
        return x0
    draws = torch.rand(4, len(x0), generator=generator)
    side = (_LEAST_CROP + (1 - _LEAST_CROP) * draws[0]).sqrt()
    left, top = ((2 * draws[1] - 1) * (1 - side), (2 * draws[2] - 1) * (1 - side))
    mirror = torch.where(draws[3] < 0.5, -1.0, 1.0) if kind == "crop-flip" else torch.ones(len(x0))
    zero = torch.zeros(len(x0))
    transform = torch.stack([torch.stack([side * mirror, zero, left], 1), torch.stack([zero, side, top], 1)], 1)
    grid = F.affine_grid(transform, list(x0.shape), align_corners=False)
    return F.grid_sample(x0, grid, align_corners=False, padding_mode="border")
