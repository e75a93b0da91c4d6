"""Rebuild every embedded weight file: ``python -m minoritybench.embedded.train [--seed 0] [--out DIR]``.

One CPU thread, a few minutes. The same seed on the same machine gives the same bytes; another machine or
another PyTorch differs in the last bits, and so in published figures, which is why the weights are shipped.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from minoritybench.embedded.card import write_card
from minoritybench.embedded.recipes_common import Progress, Schedule, TrainingData, derive_seed, training_data
from minoritybench.embedded.recipes_ddpm import (
    CLASSIFIER_SCHEDULE,
    DDPM_SCHEDULE,
    train_classifier,
    train_ddpm,
)
from minoritybench.embedded.recipes_encoders import (
    SPHERE_SCHEDULE,
    VICREG_SCHEDULE,
    train_sphere,
    train_vicreg,
)
from minoritybench.embedded.recipes_ijepa import IJEPA_SCHEDULE, train_ijepa
from minoritybench.embedded.weights import PCA_NAME
from minoritybench.microbatch import torch_threads
from minoritybench.store import atomic_path, sha256_file

log = logging.getLogger(__name__)

PCA_DIMENSIONS = 20


@dataclass(frozen=True)
class Recipe:
    """How one model is trained: ``train(data, seed, schedule, progress)``."""

    train: Callable[[TrainingData, int, Schedule, Progress], nn.Module]
    schedule: Schedule


RECIPES: dict[str, Recipe] = {
    "digits-jepa": Recipe(train_sphere, SPHERE_SCHEDULE),
    "digits-jepa-b": Recipe(train_sphere, SPHERE_SCHEDULE),
    "digits-ijepa": Recipe(train_ijepa, IJEPA_SCHEDULE),
    "digits-vicreg": Recipe(train_vicreg, VICREG_SCHEDULE),
    "digits-classifier": Recipe(train_classifier, CLASSIFIER_SCHEDULE),
    "digits-ddpm": Recipe(train_ddpm, DDPM_SCHEDULE),
}


def train_all(seed: int, out: Path) -> dict[str, dict[str, Any]]:
    """Train every model into ``out``; returns what the card records about each training run."""
    out.mkdir(parents=True, exist_ok=True)
    facts: dict[str, dict[str, Any]] = {}
    with torch_threads(1):
        data = training_data()
        for name, recipe in RECIPES.items():
            facts[name] = train_one(name, recipe, data, seed, out)
        facts[PCA_NAME] = save_tensors(pixel_pca(data.x), out / f"{PCA_NAME}.safetensors")
    return facts


def train_one(name: str, recipe: Recipe, data: TrainingData, seed: int, out: Path) -> dict[str, Any]:
    """Train and save one model as float16."""
    log.info("%s: training for %d steps", name, recipe.schedule.steps)
    model_seed = derive_seed(seed, name)

    def progress(step: int, loss: float) -> None:
        log.info("%s: step %d/%d, loss %.4f", name, step, recipe.schedule.steps, loss)

    start = time.process_time()
    module = recipe.train(data, model_seed, recipe.schedule, progress)
    seconds = time.process_time() - start
    tensors = {key: value.detach().half().contiguous() for key, value in module.state_dict().items()}
    return {
        "seed": model_seed,
        **asdict(recipe.schedule),
        "cpu_seconds": round(seconds, 1),
        "parameters": sum(p.numel() for p in module.parameters()),
        **save_tensors(tensors, out / f"{name}.safetensors"),
    }


def save_tensors(tensors: dict[str, Tensor], path: Path) -> dict[str, Any]:
    """Write a safetensors file atomically; returns its size and digest."""
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def pixel_pca(x: Tensor) -> dict[str, Tensor]:
    """The first 20 principal components of the training pixels in ``[-1, 1]``.

    Each component's largest entry is positive, which fixes the sign.
    """
    pixels = x.flatten(1).double().numpy()
    mean = pixels.mean(axis=0)
    components = np.linalg.svd(pixels - mean, full_matrices=False)[2][:PCA_DIMENSIONS]
    peak = np.abs(components).argmax(axis=1)
    components *= np.sign(components[np.arange(len(peak)), peak])[:, None]
    return {
        "mean": torch.from_numpy(mean).float(),
        "components": torch.from_numpy(components).float().contiguous(),
    }


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m minoritybench.embedded.train",
        description="Train the embedded digits models and write weights, card.json and CARD.md.",
        epilog="example: python -m minoritybench.embedded.train --seed 1 --out my-weights",
    )
    parser.add_argument("--seed", type=int, default=0, help="run seed; every model derives its own (default 0)")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "weights", help="folder (default: the package's)"
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    facts = train_all(arguments.seed, arguments.out)
    log.info("measuring the card's figures")
    write_card(arguments.out, arguments.seed, facts)
    log.info("done: %s", arguments.out)


if __name__ == "__main__":
    main()
