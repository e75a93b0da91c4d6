"""The exact Jacobian of a vision transformer, up to an isometry of its input, without automatic differentiation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from minoritybench.scoring.spectrum import (
    COLUMN_BLOCK,
    NULL_GAP,
    Scores,
    joined,
    scores_from_blocks,
    scores_from_jacobian,
)
from minoritybench.scoring.vit.backward import pull_back
from minoritybench.scoring.vit.forward import VitState, run
from minoritybench.scoring.vit.weights import VitWeights

_BATCH_ELEMENTS = 1 << 21
"""Elements of a micro-batch's token cotangents: small networks go many images at once, large ones alone."""
_FACTOR_ELEMENTS = 1 << 21
"""Elements of token cotangents taken to the patches' coordinates at a time."""

_FOR_RANKING = "{} rows: for ranking only"


class LinearisedVit:
    """A vision transformer's Jacobian at prepared inputs, linearised by hand.

    Rows come in coordinates of the patches rather than of the pixels: `J' = J U^T` with orthonormal rows U that span
    the row space of J, so that `J' J'^T = J J^T` and the singular values are those of J.
    """

    def __init__(self, weights: VitWeights) -> None:
        self.weights = weights
        self.dim = weights.dim

    def at(self, prepared: Tensor) -> VitState:
        """The linearisation at prepared inputs `(B, ...)`; its `z` is the network's output `(B, d)`."""
        with torch.no_grad():
            return run(self.weights, prepared)

    def rows(self, state: VitState, cotangents: Tensor, out: Tensor | None = None) -> Tensor:
        """`J'^T w` for output cotangents `(B, R, d)`, token by token: `(B, P, R, m)` for P patches.

        The arithmetic is done in the cotangents' dtype. `out` `(B, N, R, d)` is the working buffer, of which the result
        is a view: nothing else of its size is ever held.
        """
        weights = self.weights
        batch, count, _ = state.norm.x_hat.shape
        if out is None:
            out = cotangents.new_empty(batch, count, *cotangents.shape[1:])
        with torch.no_grad():
            pull_back(weights, state, cotangents, out)
            patches, factor = out[:, weights.first_patch :], weights.patch_factor.to(out.dtype)
            step = max(1, _FACTOR_ELEMENTS // patches[:, 0].numel())
            for part in torch.split(patches, step, dim=1):
                part[..., : factor.shape[1]] = part @ factor
            return patches[..., : factor.shape[1]]

    def jacobian_rows(self, state: VitState, dtype: torch.dtype | None = None) -> Tensor:
        """All rows of `J'`, `(B, P, d, m)`, in the network's dtype or a given one."""
        z = state.z
        identity = torch.eye(self.dim, dtype=dtype or z.dtype, device=z.device)
        return self.rows(state, identity.expand(z.shape[0], -1, -1))

    def gram(self, prepared: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """`J J^T` at prepared inputs `(B, ...)`, float64 `(B, d, d)`, from rows computed in `dtype`."""
        total = torch.zeros(prepared.shape[0], self.dim, self.dim, dtype=torch.float64, device=prepared.device)
        for block in token_blocks(self.jacobian_rows(self.at(prepared), dtype)):
            total += block @ block.transpose(1, 2)
        return total

    def scores(self, state: VitState, nulls: Tensor | None, count: int, dtype: torch.dtype | None = None) -> Scores:
        """Both scores of the first `count` images of a linearisation, `nulls` `(B, d, m)` as of `scores_from_jacobian`.

        Rows in a `dtype` below the network's own serve for ranking only, and the result says so. Structural null
        directions then carry rounding noise large enough to pass for more; they are split off regardless.
        """
        rows = self.jacobian_rows(state, dtype)[:count]
        nulls = None if nulls is None else nulls[:count]
        reduced = torch.finfo(rows.dtype).eps > torch.finfo(state.z.dtype).eps
        if self.dim > rows.shape[1] * rows.shape[3]:
            scores = scores_from_jacobian(rows.transpose(1, 2).flatten(2).to(state.z.dtype), nulls)
        else:
            gap = math.inf if reduced else NULL_GAP
            each = [None if nulls is None else nulls[i : i + 1] for i in range(count)]
            scores = joined(
                [scores_from_blocks(partial(token_blocks, rows[i : i + 1]), basis, gap) for i, basis in enumerate(each)]
            )
        if not reduced:
            return scores
        name = str(rows.dtype).removeprefix("torch.")
        return dataclasses.replace(scores, approximation=_FOR_RANKING.format(name))

    def images_at_once(self, prepared: Tensor) -> int:
        """The fixed number of images a pass, from the shape of one prepared image alone."""
        with torch.no_grad():
            tokens = self.weights.embed(prepared[:1]).shape[1]
        return max(1, _BATCH_ELEMENTS // (tokens * self.dim**2))


def token_blocks(rows: Tensor) -> Iterator[Tensor]:
    """`(B, P, d, m)` token rows as float64 blocks of columns `(B, d, w)` of `J'`."""
    step = max(1, COLUMN_BLOCK // rows.shape[3])
    for start in range(0, rows.shape[1], step):
        yield rows[:, start : start + step].transpose(1, 2).flatten(2).to(torch.float64)
