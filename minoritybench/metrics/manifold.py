"""Improved precision and recall, density, coverage, rarity: how two point sets lie among each other's neighbours.

Reference: Kynkaanniemi et al. 2019 (precision, recall); Naeem et al. 2020 (density, coverage), k = 5 as in
arXiv:2605.24631; Han et al. 2023 (rarity score), k = 3. Neighbourhoods exclude the point itself and membership is
strict. One blocked pass over all pairs gives everything, exactly (see `minoritybench.metrics.pairwise`); the `prdc`
package, which holds whole distance matrices, gives the same numbers.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minoritybench.errors import BadInputError
from minoritybench.metrics.pairwise import Points, blocks, inside, nearest, prepare, rough_squares
from minoritybench.metrics.value import MetricValue, paired_features

DEFAULT_K = 5
RARITY_K = 3
_log = logging.getLogger(__name__)


def precision(*, real: Any, fake: Any, k: int = DEFAULT_K) -> MetricValue:
    """Share of fake points inside the k-nearest-neighbour ball of some real point."""
    return manifold_metrics(real=real, fake=fake, k=k)["precision"]


def recall(*, real: Any, fake: Any, k: int = DEFAULT_K) -> MetricValue:
    """Share of real points inside the k-nearest-neighbour ball of some fake point."""
    return manifold_metrics(real=real, fake=fake, k=k)["recall"]


def density(*, real: Any, fake: Any, k: int = DEFAULT_K) -> MetricValue:
    """Mean number of real balls that hold a fake point, over k; 1 for equal distributions, may exceed 1."""
    return manifold_metrics(real=real, fake=fake, k=k)["density"]


def coverage(*, real: Any, fake: Any, k: int = DEFAULT_K) -> MetricValue:
    """Share of real points whose ball holds a fake point; below 1 even for equal distributions, see
    `coverage_ceiling`."""
    return manifold_metrics(real=real, fake=fake, k=k)["coverage"]


def coverage_ceiling(n_real: int, n_fake: int, k: int = DEFAULT_K) -> float:
    """Expected coverage of a perfect generator: `1 - prod_{i=1..k} (N - i) / (N + M - i)`."""
    i = np.arange(1, k + 1)
    return float(1 - np.prod((n_real - i) / (n_real + n_fake - i)))


def manifold_metrics(*, real: Any, fake: Any, k: int = DEFAULT_K, device: str = "cpu") -> dict[str, MetricValue]:
    """All four at once, for they share their distances. Warns of points with k or more duplicates, whose balls are
    empty."""
    real, fake = _checked(real, fake, k, least=2)
    a, b = prepare(real, fake, device=device)
    inside_real = _within(a, b, _radii("real", a, k), by_row=True)
    inside_fake = _within(a, b, _radii("fake", b, k), by_row=False)
    params = {"k": k, "n_real": len(real), "n_fake": len(fake)}
    values = {
        "precision": (inside_real.by_column > 0).double().mean(),
        "recall": (inside_fake.by_row > 0).double().mean(),
        "density": 1 / k * inside_real.by_column.double().mean(),
        "coverage": (inside_real.by_row > 0).double().mean(),
    }
    return {name: MetricValue(float(value), params=params) for name, value in values.items()}


def rarity_scores(*, real: Any, fake: Any, k: int = RARITY_K, device: str = "cpu") -> NDArray[np.float64]:
    """Rarity score `(M,)` of each fake point: the least radius of the real balls that hold it, NaN where none does."""
    real, fake = _checked(real, fake, k, least=1)
    a, b = prepare(real, fake, device=device)
    least = _within(a, b, _radii("real", a, k), by_row=True).least_radius
    return torch.where(least.isfinite(), least, torch.nan).cpu().numpy()


@dataclass(frozen=True)
class Membership:
    """Which pairs of rows (real) and columns (fake) lie within a ball: how many a row, how many a column, and the least
    radius of a column's balls (infinite without one)."""

    by_row: Tensor
    by_column: Tensor
    least_radius: Tensor


def _checked(real: Any, fake: Any, k: int, least: int) -> tuple[Any, Any]:
    if k < 1:
        raise BadInputError(f"k must be at least 1, not {k}")
    return paired_features(real, fake, minimum=k + least, keep_float32=True)


def _radii(side: str, points: Points, k: int) -> Tensor:
    """Squared distance of each point to its k-th nearest other, float64 `(N,)`."""
    radii = torch.from_numpy(nearest(points, None, k).squares[:, -1].copy())
    empty = int((radii == 0).sum())
    if empty:
        _log.warning(
            "%d of %d %s points have %d duplicates or more: their balls are empty and hold nothing, themselves"
            " included; remove duplicates",
            *(empty, len(radii), side, k),
        )
    return radii.to(points.rough.device)


def _within(a: Points, b: Points, radii: Tensor, *, by_row: bool) -> Membership:
    """Count the pairs closer than the row's radius (the column's if not `by_row`), block by block; `radii` squared."""
    device = a.rough.device
    by_a = torch.zeros(len(a), dtype=torch.int64, device=device)
    by_b = torch.zeros(len(b), dtype=torch.int64, device=device)
    least = torch.full((len(b),), torch.inf, dtype=torch.float64, device=device)
    for rows, columns in blocks(len(a), len(b)):
        squares, left, right = rough_squares(a, b, rows, columns)
        own = radii[rows] if by_row else radii[columns]
        bounds = own.unsqueeze(1) if by_row else own.unsqueeze(0)
        hit = inside(a, b, rows, columns, squares, bounds, left.unsqueeze(1) + right.unsqueeze(0))
        by_a[rows] += hit.sum(dim=1)
        by_b[columns] += hit.sum(dim=0)
        if by_row:
            held = torch.where(hit, radii[rows].unsqueeze(1), torch.inf).amin(dim=0)
            least[columns] = torch.minimum(least[columns], held)
    return Membership(by_a, by_b, least.sqrt())
