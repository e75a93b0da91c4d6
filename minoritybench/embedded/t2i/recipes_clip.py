"""Training of the tiny CLIP on the captioned digits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minoritybench.embedded.recipes_common import Progress, Schedule, TrainingData, optimise, random_views, seeded
from minoritybench.embedded.t2i.networks import build_clip

CLIP_SCHEDULE = Schedule(steps=900, batch_size=128, lr=1e-3, weight_decay=0.02)


def train_clip(
    data: TrainingData, ids: Tensor, seed: int, schedule: Schedule = CLIP_SCHEDULE, progress: Progress | None = None
) -> Any:
    """The symmetric contrastive loss of images and captions `(N, 16)`, own text tower.

    Reference: Radford et al. 2021, figure 3. Differs: where a batch holds a caption more than once, its images share
    the target equally. Images are shifted by up to half a pixel and get noise, which leaves their captions true.
    """
    with seeded(seed):
        clip = build_clip()

        def loss_of(x: Tensor, index: Tensor) -> Tensor:
            x = random_views(x, degrees=0, scale=0.02, shift=0.5, shear=0, intensity=0, noise=0.1)
            text = ids[index]
            output = clip(input_ids=text, pixel_values=x.expand(-1, 3, -1, -1))
            same = (text[:, None] == text[None]).all(dim=2).float()
            target = same / same.sum(dim=1, keepdim=True)
            logits = output.logits_per_image
            return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

        numbered = TrainingData(data.x, torch.arange(len(ids)))
        optimise(clip, numbered, schedule, loss_of, progress=progress)
    return clip.eval().requires_grad_(False)
