"""How far a top-k score by randomised SVD is from the JEPA-SCORE, and the published bounds on that.

Reference: arXiv:2605.24631 Proposition 4.1 (Eq. 9 to 11), its proof in appendix A, and appendix B.2 (Table 5).
The constant there is Halko et al.'s for the expectation with k probes of oversampling, used as if it held always: so
whether the bounds hold is a matter of measurement, case by case. r counts the singular values that are not
structurally zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from minoritybench.errors import BadInputError
from minoritybench.scoring.spectrum import LOG_FLOOR, log_sum

OFFSET_FROM = 13
"""From this position on the paper calls the tail an image-independent offset (k_th of appendix B.2)."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class ErrorTerms:
    """The error of a top-k score and its bounds, each float64 `(B,)`; the names of Table 5.

    `error` = JS - JSbar = `e_rsvd` + `e_trunc`; `e_trunc` = `e_trunc_delta` + offset, the offset being the sum of
    log sigma_i from position `OFFSET_FROM` (or k + 1, if that is later); `bound_rsvd` and `bound_trunc` are E_RSVD
    and E_Trunc; `offset_ratio` is the offset over `e_trunc`.
    """

    error: Tensor
    e_rsvd: Tensor
    e_trunc: Tensor
    e_trunc_delta: Tensor
    bound_rsvd: Tensor
    bound_trunc: Tensor
    offset_ratio: Tensor

    @property
    def holds(self) -> Tensor:
        """Whether both terms and their sum stay within their bounds, bool `(B,)`."""
        slack = _ROUNDING * (1.0 + self.error.abs())
        total = self.error <= self.bound_rsvd + self.bound_trunc + slack
        return total & (self.e_rsvd <= self.bound_rsvd + slack) & (self.e_trunc <= self.bound_trunc + slack)


def halko_constant(rank: int, k: int, q: int) -> float:
    """`C_{k,q} = 1 + (1 + 4 sqrt(2 r / (k - 1)))^(1 / (2 q + 1))`, defined for k >= 2."""
    if k < 2:
        raise BadInputError(f"the bound of Proposition 4.1 needs k >= 2, not k={k}")
    return 1.0 + (1.0 + 4.0 * math.sqrt(2.0 * rank / (k - 1))) ** (1.0 / (2 * q + 1))


def error_terms(sigma: Tensor, approximate: Tensor, q: int) -> ErrorTerms:
    """Error and bounds of a randomised SVD of `B` Jacobians.

    `sigma` `(B, r)`: all non-structural singular values, descending; `approximate` `(B, k)`: those that the randomised
    SVD found with q power iterations. Needs 2 <= k < r. The rank-k approximation is a projection of J, so its residual
    is the difference of the energies: `|J - J_k|_F^2 = sum sigma_i^2 - sum sigma~_i^2`. Values below 1e-6 count as
    1e-6 in the score, which the bounds know nothing of: with such values they can fail.
    """
    rank, k = sigma.shape[1], approximate.shape[1]
    if not 2 <= k < rank:
        raise BadInputError(f"the bounds need 2 <= k < {rank}, the singular values that are there, not k={k}")
    e_rsvd = log_sum(sigma[:, :k]) - log_sum(approximate)
    e_trunc = log_sum(sigma[:, k:])
    offset = log_sum(sigma[:, max(k, OFFSET_FROM - 1) :])
    residual = (sigma.square().sum(dim=1) - approximate.square().sum(dim=1)).clamp_min(LOG_FLOOR**2)
    reach = halko_constant(rank, k, q) * sigma[:, k : k + 1] / approximate
    return ErrorTerms(
        error=e_rsvd + e_trunc,
        e_rsvd=e_rsvd,
        e_trunc=e_trunc,
        e_trunc_delta=e_trunc - offset,
        bound_rsvd=reach.log1p().sum(dim=1),
        bound_trunc=(rank - k) / 2 * (residual / (rank - k)).log(),
        offset_ratio=offset / e_trunc,
    )


class DenseJacobian:
    """A Jacobian that is known, `(B, d, n)`, behind the products that the randomised SVD asks for; in float64."""

    def __init__(self, jacobian: Tensor) -> None:
        self._rows = jacobian.to(torch.float64)
        self.dim, self.inputs = self._rows.shape[1:]

    def vjp(self, vectors: Tensor) -> Tensor:
        """`J^T w` for `(B, l, d)`: `(B, l, n)`."""
        return vectors.to(torch.float64) @ self._rows

    def jvp(self, vectors: Tensor) -> Tensor:
        """`J v` for `(B, l, n)`: `(B, l, d)`."""
        return vectors.to(torch.float64) @ self._rows.transpose(1, 2)
