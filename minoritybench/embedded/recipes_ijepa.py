"""Training of the I-JEPA ViT: predict the tokens of masked blocks in the latent space of a moving average."""

from __future__ import annotations

import copy
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minoritybench.embedded.models import Block, IJepaViT
from minoritybench.embedded.recipes_common import (
    Progress,
    Schedule,
    TrainingData,
    ema_update,
    optimise,
    seeded,
)
from minoritybench.embedded.recipes_encoders import koleo, weak_view

IJEPA_SCHEDULE = Schedule(steps=600, batch_size=96, lr=2e-3, weight_decay=0.02)
EMA_START, EMA_END = 0.98, 0.998
SPREAD = 0.5
AGREEMENT = 1.0


def mask_table() -> Tensor:
    """All ways to hide two disjoint 2x2 blocks of the 4x4 token grid, ``(P, 16)`` int64.

    A row lists the 8 visible tokens first, then the 8 hidden ones.
    """
    corners = [(row, col) for row in range(3) for col in range(3)]
    blocks = [{4 * (r + i) + c + j for i in range(2) for j in range(2)} for r, c in corners]
    rows = []
    for first, second in combinations(blocks, 2):
        if not first & second:
            hidden = first | second
            rows.append(sorted(set(range(16)) - hidden) + sorted(hidden))
    return torch.tensor(rows)


class Predictor(nn.Module):
    """Narrow transformer from visible tokens to the target's tokens at the hidden positions."""

    def __init__(self, dim: int, width: int = 48) -> None:
        super().__init__()
        self.inp = nn.Linear(dim, width)
        self.position = nn.Parameter(torch.randn(16, width) * 0.02)
        self.mask = nn.Parameter(torch.zeros(width))
        self.block = Block(width, heads=3)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, dim)

    def forward(self, visible: Tensor, order: Tensor) -> Tensor:
        """visible: ``(B, K, dim)``; order: ``(B, 16)``, the first K visible. Returns ``(B, 16 - K, dim)``."""
        shown = visible.shape[1]
        tokens = torch.cat([self.inp(visible), self.mask.expand(len(visible), 16 - shown, -1)], dim=1)
        h = self.block(tokens + self.position[order])
        out: Tensor = self.out(self.norm(h[:, shown:]))
        return out


def train_ijepa(
    data: TrainingData, seed: int, schedule: Schedule = IJEPA_SCHEDULE, progress: Progress | None = None
) -> IJepaViT:
    """Smooth-L1 between predicted and layer-normed moving-average tokens; returns the moving average.

    Reference: Assran et al. 2023, "Self-supervised learning from images with a joint-embedding predictive
    architecture".
    Differs: the pooled, normalised context tokens are spread by KoLeo and pulled towards those of the
    moving average on the whole image, which keeps the embeddings near full rank and makes the score follow
    the density of the digits a little (see the card). The moving average stops at 0.998 rather than 1, as
    training is short.
    """
    masks = mask_table()
    with seeded(seed):
        net = IJepaViT(data.x.shape[-1])
        predictor = Predictor(net.dim)
        average = copy.deepcopy(net)

        def loss_of(x: Tensor, _: Tensor) -> Tensor:
            x = weak_view(x, noise=0.1)
            order = masks[torch.randint(len(masks), (len(x),))]
            shown = order[:, :8]
            context = net.encode_tokens(x, shown)
            with torch.no_grad():
                whole = average.encode_tokens(x)
                target = F.layer_norm(whole, (net.dim,))
                target = target.gather(1, order[:, 8:, None].expand(-1, -1, net.dim))
            z, z_whole = (F.normalize(tokens.mean(dim=1), dim=1) for tokens in (context, whole))
            agreement = (z - z_whole).square().sum(dim=1).mean()
            prediction = F.smooth_l1_loss(predictor(context, order), target)
            return prediction + SPREAD * koleo(z) + AGREEMENT * agreement

        def after_step(step: int) -> None:
            ema_update(average, net, EMA_START + (EMA_END - EMA_START) * step / schedule.steps)

        trained = nn.ModuleList([net, predictor])
        optimise(trained, data, schedule, loss_of, after_step=after_step, progress=progress)
    return average.eval().requires_grad_(False)
