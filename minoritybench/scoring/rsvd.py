"""Randomised range finder for the encoder's Jacobian, matrix-free, and the top-k score it gives.

Reference: arXiv:2605.24631 Algorithm 1 and Eq. 8 (k, p, q); Halko, Martinsson and Tropp 2011. Differs: products with
the Jacobian are exact, where the published code takes finite differences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from minoritybench.errors import BadInputError


@dataclass(frozen=True)
class Rsvd:
    """Rank `k`, oversampling `p`, power iterations `q` of the randomised SVD."""

    k: int = 3
    p: int = 2
    q: int = 2

    def __post_init__(self) -> None:
        if self.k < 1 or self.p < 0 or self.q < 0:
            raise BadInputError(f"randomised SVD needs k >= 1, p >= 0, q >= 0, not k={self.k} p={self.p} q={self.q}")

    @property
    def probes(self) -> int:
        """Random directions drawn an image, `k + p`."""
        return self.k + self.p

    def within(self, room: int) -> Rsvd:
        """The same with at most `room` probes, all that a Jacobian of that rank has use for."""
        return self if self.probes <= room else Rsvd(min(self.k, room), room - min(self.k, room), self.q)


@dataclass(frozen=True)
class TopK:
    """The k largest singular triplets that a subspace holds, a batch of `B` Jacobians `(d, n)`.

    `sigma` float64 `(B, k)` descending; `left` `(B, k, d)` and `right` `(B, k, n)` unit vectors in the graph's dtype.
    The right vector of a value that is rounding (`noise_floor`) is zero: it has no direction of its own.
    """

    sigma: Tensor
    left: Tensor
    right: Tensor

    def first(self, k: int) -> TopK:
        """The `k` largest of them."""
        return TopK(self.sigma[:, :k], self.left[:, :k], self.right[:, :k])


class JacobianProducts(Protocol):
    """Products with a batch of Jacobians `(B, d, n)`: of a network's graph, or of a matrix that is known."""

    dim: int
    inputs: int

    def vjp(self, vectors: Tensor) -> Tensor:
        """`J^T w` for `(B, l, d)`: `(B, l, n)`."""
        ...

    def jvp(self, vectors: Tensor) -> Tensor:
        """`J v` for `(B, l, n)`: `(B, l, d)`."""
        ...


def range_basis(graph: JacobianProducts, probes: Tensor, q: int, nulls: Tensor | None = None) -> Tensor:
    """Orthonormal basis `(B, d, l)` of an approximate top left singular subspace, `l = min(probes, d - m, n)`.

    `probes` `(B, l, n)` are random tangents; `q` rounds of `J J^T` sharpen the subspace they span. `nulls` `(B, d, m)`
    are the head's structural null directions, orthonormal: kept out of the basis, in which they would only be noise.
    """
    unit = torch.nn.functional.normalize(probes[:, : room(graph, nulls)], dim=2)
    basis = orthonormal(graph.jvp(unit), nulls)
    for _ in range(q):
        basis = orthonormal(graph.jvp(graph.vjp(basis.transpose(1, 2))), nulls)
    return basis


def room(graph: JacobianProducts, nulls: Tensor | None) -> int:
    """Left directions beside the structural null ones that a Jacobian `(d, n)` can have use for."""
    return min(graph.dim - (0 if nulls is None else nulls.shape[2]), graph.inputs)


def top_k(graph: JacobianProducts, basis: Tensor, k: int) -> TopK:
    """The `k` largest singular triplets of `Q Q^T J` for a basis `Q` `(B, d, l)`.

    Singular values of `Q^T J` never exceed those of `J` (interlacing), so the score is a lower bound of the exact
    top-k sum. The small eigenproblem is solved in float64; nothing here is differentiated.
    """
    return triplets(basis, graph.vjp(basis.transpose(1, 2)), k)


def triplets(basis: Tensor, rows: Tensor, k: int) -> TopK:
    """The `k` largest singular triplets of `Q B` for a basis `Q` `(B, d, l)` and `B = Q^T J` `(B, l, n)`.

    `sigma` is NaN for an image whose `B` has an infinite or undefined entry, and the right vectors are zero.
    """
    projected = rows.to(torch.float64)
    finite = projected.isfinite().flatten(1).all(dim=1)
    projected = torch.where(finite.view(-1, 1, 1), projected, 0.0)
    values, vectors = torch.linalg.eigh(projected @ projected.transpose(1, 2))
    k = min(k, values.shape[1])
    sigma = torch.where(finite.unsqueeze(1), values.flip(-1)[:, :k].clamp_min(0.0).sqrt(), torch.nan)
    rotation = vectors.flip(-1)[:, :, :k].transpose(1, 2)
    left = rotation @ basis.to(torch.float64).transpose(1, 2)
    defined = (sigma > noise_floor(sigma, basis.dtype)).unsqueeze(-1)
    right = torch.where(defined, (rotation @ projected) / sigma.unsqueeze(-1), 0.0)
    return TopK(sigma=sigma, left=left.to(basis.dtype), right=right.to(basis.dtype))


def noise_floor(sigma: Tensor, dtype: torch.dtype) -> Tensor:
    """What rounding alone can make of a singular value that is zero, `(B, 1)`, for `sigma` `(B, k)` descending.

    That of products in `dtype`, and that of the square root of an eigenvalue found in float64.
    """
    return sigma[:, :1] * max(torch.finfo(dtype).eps, torch.finfo(torch.float64).eps ** 0.5)


def orthonormal(rows: Tensor, nulls: Tensor | None = None) -> Tensor:
    """`(B, l, d)` row vectors to an orthonormal basis `(B, d, l)` in the same dtype, at right angles to `nulls`."""
    columns = rows.to(torch.float64).transpose(1, 2)
    if nulls is not None:
        columns = columns - nulls @ (nulls.transpose(1, 2) @ columns)
    return torch.linalg.qr(columns).Q.to(rows.dtype)
