"""The exact Jacobian of a vision transformer, up to an isometry of its input, without automatic differentiation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from minoritybench.scoring.vit.backward import pull_back
from minoritybench.scoring.vit.forward import VitState, run
from minoritybench.scoring.vit.weights import VitWeights

_COLUMNS = 8192


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

        The arithmetic is done in the cotangents' dtype. `out` `(B, N, R, d)` is the working buffer, one row of it a token.
        """
        weights = self.weights
        batch, count, _ = state.norm.x_hat.shape
        if out is None:
            out = cotangents.new_empty(batch, count, *cotangents.shape[1:])
        with torch.no_grad():
            pull_back(weights, state, cotangents, out)
            return out[:, weights.first_patch :] @ weights.patch_factor.to(out.dtype)

    def jacobian_rows(self, state: VitState, dtype: torch.dtype | None = None) -> Tensor:
        """All rows of `J'`, `(B, P, d, m)`, in the network's dtype or a given one."""
        z = state.z
        identity = torch.eye(self.dim, dtype=dtype or z.dtype, device=z.device)
        return self.rows(state, identity.expand(z.shape[0], -1, -1))

    def gram(self, prepared: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """`J J^T` at prepared inputs `(B, ...)`, float64 `(B, d, d)`, from rows computed in `dtype`."""
        rows = self.jacobian_rows(self.at(prepared), dtype)
        return sum((block @ block.transpose(1, 2) for block in column_blocks(rows)), start=torch.zeros(()))


def column_blocks(rows: Tensor) -> Iterator[Tensor]:
    """`(B, P, d, m)` token rows as float64 blocks of columns `(B, d, w)` of `J'`."""
    step = max(1, _COLUMNS // rows.shape[3])
    for start in range(0, rows.shape[1], step):
        yield rows[:, start : start + step].transpose(1, 2).flatten(2).to(torch.float64)
