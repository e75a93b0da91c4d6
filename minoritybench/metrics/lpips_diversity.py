"""Mean LPIPS between random pairs of samples. Higher: more diverse; noise raises it too.

Reference: Zhang et al. 2018 for the distance; as a measure of diversity, Zhu et al. 2017 (BicycleGAN), section 5.
Depends on the network (`lpips-alex`, `lpips-vgg`), the image size and, in its noise, on the pairs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from minoritybench.errors import BadInputError
from minoritybench.metrics.value import MetricValue
from minoritybench.microbatch import pad_rows
from minoritybench.perceptual import open_distance

PAIRS = 1000
_MICRO_BATCH = 8


def lpips_diversity(
    *, fake: Tensor, pairs: int = PAIRS, distance: str = "lpips-alex", seed: int = 0, device: str = "cpu"
) -> MetricValue:
    """Mean over `pairs` seeded random pairs of different images of `(M, C, H, W)` in `[0, 1]`, M >= 2.

    `distance` is any name of `minoritybench.perceptual.open_distance`. Error: absent backbone weights exit 4.
    """
    if fake.ndim != 4 or len(fake) < 2 or not fake.is_floating_point():
        raise BadInputError(f"diversity needs (M, C, H, W) floats in [0, 1], M >= 2, not {fake.dtype} {fake.shape}")
    if pairs < 1:
        raise BadInputError(f"pairs must be at least 1, not {pairs}")
    opened = open_distance(distance, device)
    first, second = random_pairs(len(fake), pairs, seed)
    values = torch.cat(
        [
            _between(
                opened.value, fake, first[start : start + _MICRO_BATCH], second[start : start + _MICRO_BATCH], device
            )
            for start in range(0, pairs, _MICRO_BATCH)
        ]
    )
    params = {"n_fake": len(fake), "pairs": pairs, "distance": distance, "weights_sha256": opened.sha256, "seed": seed}
    return MetricValue(float(values.mean()), params=params)


def random_pairs(count: int, pairs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Row numbers `(P,)` of both sides, all pairs of different rows equally likely; a pair may come up again."""
    rng = np.random.default_rng(seed)
    first = rng.integers(count, size=pairs)
    second = (first + rng.integers(1, count, size=pairs)) % count
    return torch.from_numpy(first), torch.from_numpy(second)


def _between(distance: Callable[[Tensor, Tensor], Tensor], images: Tensor, i: Tensor, j: Tensor, device: str) -> Tensor:
    """Distances of a micro-batch of pairs, float64 `(b,)`; always of the same size, so that the size enters no bit."""
    a, b = (pad_rows(images[side].to(device) * 2 - 1, _MICRO_BATCH) for side in (i, j))
    with torch.no_grad():
        return distance(a, b)[: len(i)].double().cpu()
