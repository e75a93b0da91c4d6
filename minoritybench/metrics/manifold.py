"""Improved precision and recall, density, coverage, rarity: how two point sets lie among each other's neighbours.

Reference: Kynkaanniemi et al. 2019 (precision, recall); Naeem et al. 2020 (density, coverage), k = 5 as in
arXiv:2605.24631; Han et al. 2023 (rarity score), k = 3. Neighbourhoods exclude the point itself and membership is
strict. One blocked pass over all pairs gives everything, exactly (see `minoritybench.metrics.pairwise`); the `prdc`
package, which holds whole distance matrices, gives the same numbers.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minoritybench.errors import BadInputError
from minoritybench.metrics.pairwise import Block, Candidates, Points, exact_squares, pair_blocks, prepare
from minoritybench.metrics.value import MetricValue, paired_features

DEFAULT_K = 5
RARITY_K = 3
_OPEN = 1 << 20
"""Pairs held whose ball is not yet known exactly."""
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
    real, fake = _checked(real, fake, k, real_rows=k + 2, fake_rows=k + 2)
    a, b = prepare(real, fake, device=device)
    radii = _radii("real", Candidates.of(a, None, k))
    balls = _FakeBalls(Candidates.of(b, None, k), len(a))
    covered, precise = (torch.zeros(len(side), dtype=torch.bool, device=radii.device) for side in (a, b))
    held = 0
    for block in pair_blocks(a, b):
        pairs = block.inside(radii)
        covered[pairs.i] = precise[pairs.j] = True
        held += len(pairs.i)
        balls.look(block)
    recalled = balls.recalled(a)
    params = {"k": k, "n_real": len(real), "n_fake": len(fake)}
    values = {
        "precision": float(precise.double().mean()),
        "recall": float(recalled.double().mean()),
        "density": 1 / k * (held / len(b)),
        "coverage": float(covered.double().mean()),
    }
    return {name: MetricValue(value, params=params) for name, value in values.items()}


def rarity_score(*, real: Any, fake: Any, k: int = RARITY_K, device: str = "cpu") -> MetricValue:
    """Mean rarity score of the fake points that lie in a real ball; NaN, with a warning, where none does. Higher:
    rarer, but what lies in no ball is left out, so read it beside `rarity_valid_share` and precision."""
    scores, params = _rarities(real, fake, k, device)
    valid = scores[np.isfinite(scores)]
    if not len(valid):
        _log.warning("no fake point lies in a real ball: the rarity score is undefined")
    value = float(valid.mean()) if len(valid) else float("nan")
    return MetricValue(value, params=params, details={"valid_share": len(valid) / len(scores)})


def rarity_valid_share(*, real: Any, fake: Any, k: int = RARITY_K, device: str = "cpu") -> MetricValue:
    """Share of fake points with a rarity score: precision at this k. Higher is better."""
    scores, params = _rarities(real, fake, k, device)
    return MetricValue(float(np.isfinite(scores).mean()), params=params)


def _rarities(real: Any, fake: Any, k: int, device: str) -> tuple[NDArray[np.float64], dict[str, Any]]:
    scores = rarity_scores(real=real, fake=fake, k=k, device=device)
    return scores, {"k": k, "n_real": len(real), "n_fake": len(fake)}


def rarity_scores(*, real: Any, fake: Any, k: int = RARITY_K, device: str = "cpu") -> NDArray[np.float64]:
    """Rarity score `(M,)` of each fake point: the least radius of the real balls that hold it, NaN where none does."""
    real, fake = _checked(real, fake, k, real_rows=k + 1, fake_rows=1)
    a, b = prepare(real, fake, device=device)
    radii = _radii("real", Candidates.of(a, None, k))
    least = torch.full((len(b),), torch.inf, dtype=torch.float64, device=radii.device)
    for block in pair_blocks(a, b):
        pairs = block.inside(radii)
        least.scatter_reduce_(0, pairs.j, radii[pairs.i], "amin")
    return torch.where(least.isfinite(), least.sqrt(), torch.nan).cpu().numpy()


def _checked(real: Any, fake: Any, k: int, *, real_rows: int, fake_rows: int) -> tuple[Any, Any]:
    if k < 1:
        raise BadInputError(f"k must be at least 1, not {k}")
    real, fake = paired_features(real, fake, minimum=1, keep_float32=True)
    for name, rows, least in (("real", real, real_rows), ("fake", fake, fake_rows)):
        if len(rows) < least:
            raise BadInputError(f"{name} features: {len(rows)} rows, at least {least} are needed for k = {k}")
    return real, fake


class _FakeBalls:
    """Which real points lie in the ball of some fake one. The balls' radii are known to an interval at first; they are
    made exact only where a real point's answer hangs on them, which is seldom."""

    def __init__(self, near: Candidates, n_real: int) -> None:
        self._near = near
        self._low, self._high = near.bounds()
        self._exact = torch.zeros_like(self._low, dtype=torch.bool)
        self._settle((self._low <= 0).nonzero().squeeze(1))
        _warn_of_empty("fake", self._high, near.k)
        self._recalled = torch.zeros(n_real, dtype=torch.bool, device=self._low.device)
        self._open: list[tuple[Tensor, Tensor]] = []

    def look(self, block: Block) -> None:
        """Take a block of pairs into account."""
        pairs = block.near(self._high, 1)
        inside = pairs.high < self._low[pairs.j]
        self._recalled[pairs.i[inside]] = True
        still = ~(inside | self._recalled[pairs.i])
        self._open.append((pairs.i[still], pairs.j[still]))
        if sum(len(i) for i, _ in self._open) > _OPEN:
            self._close(block.a)

    def recalled(self, a: Points) -> Tensor:
        """The answer for each real point, bool `(N,)`, once all blocks are seen."""
        if self._open:
            self._close(a)
        return self._recalled

    def _close(self, a: Points) -> None:
        i, j = (torch.cat(side) for side in zip(*self._open, strict=True))
        self._open = []
        left = ~self._recalled[i]
        i, j = i[left], j[left]
        squares = exact_squares(a, self._near.b, i, j)
        self._recalled[i[squares < self._low[j]]] = True
        left = ~self._recalled[i] & (squares < self._high[j])
        i, j, squares = i[left], j[left], squares[left]
        self._settle(torch.unique(j[~self._exact[j]]))
        self._recalled[i[squares < self._high[j]]] = True

    def _settle(self, which: Tensor) -> None:
        if len(which):
            self._low[which] = self._high[which] = self._near.settled(which)[0][:, -1]
            self._exact[which] = True


def _radii(side: str, near: Candidates) -> Tensor:
    """Squared distance of each point to its k-th nearest other, float64 `(N,)`."""
    radii = near.settled(torch.arange(len(near.a), device=near.low.device))[0][:, -1]
    _warn_of_empty(side, radii, near.k)
    return radii


def _warn_of_empty(side: str, radii: Tensor, k: int) -> None:
    empty = int((radii == 0).sum())
    if empty:
        _log.warning(
            "%d of %d %s points have %d duplicates or more: their balls are empty and hold nothing, themselves"
            " included; remove duplicates",
            *(empty, len(radii), side, k),
        )
