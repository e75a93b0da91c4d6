"""Block Lanczos for the top singular triplets of the encoder's Jacobian, matrix-free.

Reference: Golub and Kahan 1965; block form with full reorthogonalisation. Differs from the randomised SVD of
`minoritybench.scoring.rsvd` in that every block is kept: at equal numbers of products the Krylov space holds the top
subspace orders of magnitude more exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minoritybench.errors import BadInputError
from minoritybench.scoring.jacobian import JacobianGraph
from minoritybench.scoring.rsvd import TopK, orthonormal, triplets


@dataclass(frozen=True)
class Lanczos:
    """`k` triplets from `blocks` Krylov blocks of `block` vectors: `(2 blocks - 1) * block` products an image, and one
    more `block` of JVPs to start."""

    k: int = 9
    block: int = 3
    blocks: int = 10

    def __post_init__(self) -> None:
        if self.k < 1 or self.block < 1 or self.block * self.blocks < self.k:
            raise BadInputError(
                f"block Lanczos needs block * blocks >= k >= 1, not k={self.k} block={self.block} blocks={self.blocks}"
            )


def lanczos_top_k(graph: JacobianGraph, probes: Tensor, lanczos: Lanczos) -> TopK:
    """The `k` largest singular triplets found in the Krylov space of `J J^T` on `J Omega^T`.

    `probes` `(B, block, n)` are random tangents. Blocks stop early when the space is full (`min(d, n)` vectors).
    """
    unit = torch.nn.functional.normalize(probes, dim=2)
    basis = orthonormal(graph.jvp(unit))
    rows = graph.vjp(basis.transpose(1, 2))
    newest = rows
    room = min(graph.dim, graph.inputs)
    for _ in range(lanczos.blocks - 1):
        width = min(lanczos.block, room - basis.shape[2])
        if width < 1:
            break
        block = _orthogonal_to(basis, graph.jvp(newest[:, :width]))
        newest = graph.vjp(block.transpose(1, 2))
        basis, rows = torch.cat([basis, block], dim=2), torch.cat([rows, newest], dim=1)
    return triplets(basis, rows, lanczos.k)


def _orthogonal_to(basis: Tensor, rows: Tensor) -> Tensor:
    """`(B, w, d)` rows to an orthonormal block `(B, d, w)` at right angles to `basis`, by two passes in float64."""
    wide = basis.to(torch.float64)
    block = rows.to(torch.float64).transpose(1, 2)
    for _ in range(2):
        block = torch.linalg.qr(block - wide @ (wide.transpose(1, 2) @ block)).Q
    return block.to(basis.dtype)
