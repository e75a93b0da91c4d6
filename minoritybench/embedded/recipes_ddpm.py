"""Training of the DDPM and of the classifier."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from minoritybench.embedded.models import (
    TIMESTEPS,
    UNCONDITIONAL,
    DigitsClassifier,
    DigitsDenoiser,
)
from minoritybench.embedded.recipes_common import (
    Progress,
    Schedule,
    TrainingData,
    ema_update,
    optimise,
    random_views,
    seeded,
)

DDPM_SCHEDULE = Schedule(steps=10000, batch_size=128, lr=4e-3, weight_decay=0.0, warmup=0.02)
DDPM_EMA = 0.999
LABEL_DROPOUT = 0.5
CLASSIFIER_SCHEDULE = Schedule(steps=700, batch_size=128, lr=2e-3)


def train_ddpm(
    data: TrainingData, seed: int, schedule: Schedule = DDPM_SCHEDULE, progress: Progress | None = None
) -> DigitsDenoiser:
    """Mean squared error of the velocity at uniform time steps; returns the moving average of the weights.

    Labels are dropped at random so that one network learns p(x) and p(x | label).
    Reference: Salimans and Ho 2022 for the loss ("SNR + 1" weighting); Ho and Salimans 2022 for the dropout.
    """
    with seeded(seed):
        net = DigitsDenoiser()
        average = copy.deepcopy(net)

        def loss_of(x: Tensor, labels: Tensor) -> Tensor:
            t = torch.randint(TIMESTEPS, (len(x),))
            labels = labels.masked_fill(torch.rand(len(x)) < LABEL_DROPOUT, UNCONDITIONAL)
            noise = torch.randn_like(x)
            signal, sigma = net.levels(t)
            noisy = signal * x + sigma * noise
            return F.mse_loss(net.velocity(noisy, t, labels), signal * noise - sigma * x)

        def after_step(step: int) -> None:
            ema_update(average, net, min(DDPM_EMA, (1 + step) / (10 + step)))

        optimise(net, data, schedule, loss_of, after_step=after_step, progress=progress)
    return average.eval().requires_grad_(False)


def train_classifier(
    data: TrainingData, seed: int, schedule: Schedule = CLASSIFIER_SCHEDULE, progress: Progress | None = None
) -> DigitsClassifier:
    """Cross-entropy on lightly augmented digits."""
    with seeded(seed):
        net = DigitsClassifier(data.x.shape[-1])

        def loss_of(x: Tensor, labels: Tensor) -> Tensor:
            shift = 0.4 * x.shape[-1] / 8
            view = random_views(x, degrees=5, scale=0.05, shift=shift, shear=0.1, intensity=0.1, noise=0.05)
            return F.cross_entropy(net(view), labels)

        optimise(net, data, schedule, loss_of, progress=progress)
    return net.eval().requires_grad_(False)
