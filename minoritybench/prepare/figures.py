"""What a classifier does on images that it was never trained on, noised to several levels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from minoritybench.prepare.classifier import GuideClassifier
from minoritybench.prepare.training import Task, noised
from minoritybench.rng import derived_seed

_LEVELS = (0.0, 0.25, 0.5, 0.75)
_ENOUGH = 2000
_BATCH = 64


def held_out_figures(classifier: GuideClassifier, task: Task) -> dict[str, Any]:
    """Accuracy and mean cross-entropy on the held-out images at four original timesteps, `chance` being the share of
    the commonest answer among them. Small sets are noised several times over."""
    _, held = task.split()
    shares = np.bincount(task.targets[held], minlength=task.config.outputs) / len(held)
    draws = max(1, _ENOUGH // len(held))
    figures: dict[str, Any] = {"images": len(held), "noisings": draws, "chance": float(shares.max())}
    accuracy, entropy = {}, {}
    for level in _LEVELS:
        timestep = int(level * len(task.alphas_cumprod))
        right, loss = _at(classifier, task, np.tile(held, draws), timestep)
        accuracy[str(timestep)], entropy[str(timestep)] = right, loss
    return {**figures, "accuracy": accuracy, "cross_entropy": entropy}


@torch.no_grad()
def _at(classifier: GuideClassifier, task: Task, indices: np.ndarray[Any, Any], timestep: int) -> tuple[float, float]:
    """Accuracy and cross-entropy of images noised to one timestep."""
    generator = torch.Generator().manual_seed(derived_seed(task.seed, "figures", timestep))
    right, loss = 0.0, 0.0
    for start in range(0, len(indices), _BATCH):
        block = indices[start : start + _BATCH]
        steps = torch.full((len(block),), timestep, dtype=torch.int64)
        x_t = noised(task.alphas_cumprod, task.store.take(block), steps, generator).to(task.device)
        logits = classifier(x_t, steps.to(task.device), task.batch_labels(block)).double().cpu()
        target = torch.from_numpy(task.targets[block])
        right += float((logits.argmax(dim=1) == target).sum())
        loss += float(F.cross_entropy(logits, target, reduction="sum"))
    return right / len(indices), loss / len(indices)
