"""What every training recipe shares: seeds, batches, views and the optimiser loop."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minoritybench.embedded.data import DigitsSplit, load_split

Progress = Callable[[int, float], None]
"""Called with the number of finished steps and the loss."""


@dataclass(frozen=True)
class TrainingData:
    """Training images ``(N, 1, H, H)`` in ``[-1, 1]`` and labels ``(N,)`` int64."""

    x: Tensor
    labels: Tensor


def to_network(images_uint8: Tensor) -> Tensor:
    """``(N, H, H)`` uint8 to ``(N, 1, H, H)`` float32 in ``[-1, 1]``."""
    return images_uint8.float()[:, None] / 127.5 - 1


def training_data() -> TrainingData:
    """The training split as tensors."""
    return as_training_data(load_split("train"))


def as_training_data(split: DigitsSplit) -> TrainingData:
    """Images and labels of a split as tensors."""
    return TrainingData(to_network(torch.from_numpy(split.images)), torch.from_numpy(split.labels))


def derive_seed(seed: int, name: str) -> int:
    """An independent 63-bit seed for one model of one training run.

    Not `rng.derived_seed`, though it does the same: the shipped weights come from these seeds.
    """
    digest = hashlib.sha256(f"minoritybench.embedded:{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global stream (weight initialisation uses it) and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def random_views(
    x: Tensor, *, degrees: float, scale: float, shift: float, shear: float, intensity: float, noise: float
) -> Tensor:
    """One random view of each image: affine warp, intensity change, Gaussian noise.

    x: ``(B, 1, H, H)`` in ``[-1, 1]``. degrees, scale (relative), shift (pixels), shear and intensity
    (relative) are half-widths of uniform ranges; noise is a standard deviation in the ``[-1, 1]`` space.
    The border is filled with background (-1).
    """
    batch = x.shape[0]

    def uniform(half_width: float) -> Tensor:
        return (torch.rand(batch) * 2 - 1) * half_width

    ink = (x + 1) / 2
    if degrees or scale or shift or shear:
        angle = uniform(degrees * math.pi / 180)
        size = 1 + uniform(scale)
        cos, sin, slant = size * angle.cos(), size * angle.sin(), uniform(shear)
        # grid_sample spans 2 units over the image, hence shift * 2 / size of the image
        pixels = 2 / x.shape[-1]
        top = torch.stack([cos, -sin + slant, uniform(shift) * pixels], dim=1)
        bottom = torch.stack([sin, cos, uniform(shift) * pixels], dim=1)
        grid = F.affine_grid(torch.stack([top, bottom], dim=1), list(x.shape), align_corners=False)
        ink = F.grid_sample(ink, grid, align_corners=False)
    if intensity:
        ink = ink * (1 + uniform(intensity))[:, None, None, None]
    return ink * 2 - 1 + noise * torch.randn_like(x)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train. ``lr`` is the peak."""

    steps: int
    batch_size: int
    lr: float
    weight_decay: float = 1e-3
    warmup: float = 0.1

    def lr_at(self, step: int) -> float:
        """Linear warm-up over ``warmup`` of the steps, then a cosine to zero."""
        done = (step + 0.5) / self.steps
        if done < self.warmup:
            return self.lr * done / self.warmup
        return self.lr * 0.5 * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup)))


def optimise(
    trained: nn.Module,
    data: TrainingData,
    schedule: Schedule,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    *,
    after_step: Callable[[int], None] | None = None,
    progress: Progress | None = None,
) -> None:
    """AdamW with gradient clipping at 1 on random batches.

    ``loss_of(x, labels)`` gets a batch drawn without replacement. ``after_step(step)`` is where a moving
    average goes.
    """
    parameters = [p for p in trained.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=schedule.lr, weight_decay=schedule.weight_decay, fused=True)
    for step in range(schedule.steps):
        for group in optimiser.param_groups:
            group["lr"] = schedule.lr_at(step)
        index = torch.randperm(len(data.labels))[: schedule.batch_size]
        loss = loss_of(data.x[index], data.labels[index])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if after_step is not None:
            after_step(step)
        if progress is not None and (step + 1) % max(1, schedule.steps // 4) == 0:
            progress(step + 1, loss.item())


@torch.no_grad()
def ema_update(average: nn.Module, trained: nn.Module, decay: float) -> None:
    """``average = decay * average + (1 - decay) * trained``, parameter by parameter."""
    torch._foreach_lerp_(list(average.parameters()), list(trained.parameters()), 1 - decay)
