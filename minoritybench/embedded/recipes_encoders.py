"""Losses and loops of the two MLP encoders: the KoLeo sphere encoder and the VICReg negative control."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minoritybench.embedded.models import SphereMLP, VicregMLP
from minoritybench.embedded.recipes_common import (
    Progress,
    Schedule,
    TrainingData,
    optimise,
    random_views,
    seeded,
)

SPHERE_SCHEDULE = Schedule(steps=1500, batch_size=128, lr=2e-3)
AGREEMENT = 0.5
SPREAD = 0.5
VICREG_SCHEDULE = Schedule(steps=1000, batch_size=128, lr=2e-3)


def koleo(z: Tensor) -> Tensor:
    """Kozachenko-Leonenko spread loss of a batch ``(B, d)``: minus the mean log nearest-neighbour distance.

    Reference: Sablayrolles et al. 2019, "Spreading vectors for similarity search".
    """
    squared = (z[:, None] - z[None]).square().sum(-1)
    squared = squared + torch.diag(torch.full((len(z),), float("inf")))
    return -torch.log(squared.min(dim=1).values.clamp_min(1e-12).sqrt() + 1e-4).mean()


def train_sphere(
    data: TrainingData, seed: int, schedule: Schedule = SPHERE_SCHEDULE, progress: Progress | None = None
) -> SphereMLP:
    """Two weakly augmented views are pulled together on the sphere while KoLeo spreads the instances."""
    with seeded(seed):
        net = SphereMLP(data.x.shape[-1])

        def loss_of(x: Tensor, _: Tensor) -> Tensor:
            a, b = (net(weak_view(x, noise=0.15)) for _ in range(2))
            agreement = (a - b).square().sum(dim=1).mean()
            return AGREEMENT * agreement + SPREAD * (koleo(a) + koleo(b)) / 2

        optimise(net, data, schedule, loss_of, progress=progress)
    return net.eval().requires_grad_(False)


def weak_view(x: Tensor, noise: float) -> Tensor:
    """A view closer to its image than the neighbouring images are, so that density is not contracted.

    Pixels that the digits' resize from 8 px made say less each, so that the noise grows with the side.
    """
    pixels = x.shape[-1] / 8
    return random_views(x, degrees=5, scale=0.05, shift=0.4 * pixels, shear=0.15, intensity=0.1, noise=noise * pixels)


def vicreg(a: Tensor, b: Tensor) -> Tensor:
    """VICReg loss with the published weights 25, 25, 1.

    Reference: Bardes, Ponce, LeCun 2022, equations 1 to 6.
    """
    invariance = F.mse_loss(a, b)
    variance = torch.stack([F.relu(1 - torch.sqrt(z.var(dim=0) + 1e-4)).mean() for z in (a, b)]).mean()
    return 25 * invariance + 25 * variance + covariance_penalty(a) + covariance_penalty(b)


def covariance_penalty(z: Tensor) -> Tensor:
    """Sum of squared off-diagonal covariances over ``d``."""
    cov = torch.cov(z.T)
    return (cov - torch.diag(torch.diag(cov))).square().sum() / z.shape[1]


def train_vicreg(
    data: TrainingData, seed: int, schedule: Schedule = VICREG_SCHEDULE, progress: Progress | None = None
) -> VicregMLP:
    """VICReg on views that differ by strong noise, which contracts the dense regions: JEPA-SCORE inverts."""
    with seeded(seed):
        net = VicregMLP()
        projector = nn.Sequential(nn.Linear(net.dim, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 128))

        def loss_of(x: Tensor, _: Tensor) -> Tensor:
            a, b = (projector(net(x + 0.3 * torch.randn_like(x))) for _ in range(2))
            return vicreg(a, b)

        optimise(nn.ModuleList([net, projector]), data, schedule, loss_of, progress=progress)
    return net.eval().requires_grad_(False)
