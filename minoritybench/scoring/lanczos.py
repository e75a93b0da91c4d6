"""Block Lanczos for the top singular triplets of the encoder's Jacobian, matrix-free.

Reference: Golub and Kahan 1965; block form with full reorthogonalisation; Musco and Musco 2015 for few blocks of random
start. Differs from the randomised SVD of `minoritybench.scoring.rsvd` in that every block is kept: at equal numbers of
products the Krylov space holds the top subspace orders of magnitude more exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minoritybench.errors import BadInputError
from minoritybench.scoring.rsvd import JacobianProducts, TopK, orthonormal, room, triplets


@dataclass(frozen=True)
class Lanczos:
    """`k` triplets from `blocks` Krylov blocks of `block` vectors: `2 blocks * block` products an image, half JVPs."""

    k: int = 9
    block: int = 3
    blocks: int = 10

    def __post_init__(self) -> None:
        if self.k < 1 or self.block < 1 or self.block * self.blocks < self.k:
            raise BadInputError(
                f"block Lanczos needs block * blocks >= k >= 1, not k={self.k} block={self.block} blocks={self.blocks}"
            )


def lanczos_top_k(graph: JacobianProducts, probes: Tensor, lanczos: Lanczos, nulls: Tensor | None = None) -> TopK:
    """The `k` largest singular triplets found in the Krylov space of `J J^T` on `J Omega^T`.

    `probes` `(B, block, n)` are tangents, random or close to the right singular vectors. `nulls` `(B, d, m)` are the
    head's structural null directions, orthonormal, which stay out. Blocks stop early when the space is full.
    """
    space = room(graph, nulls)
    unit = torch.nn.functional.normalize(probes[:, :space], dim=2)
    basis = orthonormal(graph.jvp(unit), nulls)
    rows = newest = graph.vjp(basis.transpose(1, 2))
    for _ in range(lanczos.blocks - 1):
        width = min(lanczos.block, space - basis.shape[2])
        if width < 1:
            break
        block = _orthogonal_to(basis, graph.jvp(newest[:, :width]), nulls)
        newest = graph.vjp(block.transpose(1, 2))
        basis, rows = torch.cat([basis, block], dim=2), torch.cat([rows, newest], dim=1)
    return triplets(basis, rows, lanczos.k)


def _orthogonal_to(basis: Tensor, rows: Tensor, nulls: Tensor | None) -> Tensor:
    """`(B, w, d)` rows to an orthonormal block `(B, d, w)` at right angles to `basis`, by two passes in float64."""
    taken = basis.to(torch.float64)
    taken = taken if nulls is None else torch.cat([taken, nulls], dim=2)
    once = orthonormal(rows.to(torch.float64), taken)
    return orthonormal(once.transpose(1, 2), taken).to(basis.dtype)
