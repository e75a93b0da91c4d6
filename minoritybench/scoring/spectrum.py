"""Singular values of a Jacobian and the JEPA-SCORE read off them.

Reference: JEPA-SCORE, arXiv:2510.05949; arXiv:2605.24631 Eq. 3. Differs: products are accumulated in float64, and the
head's structural null directions, which carry rounding noise instead of density, can be left out (`deflated`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LOG_FLOOR = 1e-6
"""Singular values at or below this count as this: the published clamp, and the threshold of a rank deficit."""

_COLUMN_BLOCK = 8192
_GRAM_CONDITION = 1e-9
"""Where lambda_min / lambda_max of the Gram matrix falls below this, its square root has lost digits."""
_GRAM_NOISE = 1e-13
"""Eigenvalues of a float64 Gram matrix below this share of the largest are rounding."""


@dataclass(frozen=True)
class Scores:
    """Scores of `B` images, all float64 on the CPU.

    `reference` sums log max(sigma, 1e-6) over all min(d, n) singular values (the published JEPA-SCORE); `deflated`
    leaves out the structural null directions; `rank_deficit` (int64) counts the remaining values at or below 1e-6;
    `sigma` `(B, r)` holds the remaining values, descending.
    """

    reference: Tensor
    deflated: Tensor
    rank_deficit: Tensor
    sigma: Tensor


def joined(parts: Sequence[Scores]) -> Scores:
    """Scores of several groups of images as one."""
    return Scores(
        reference=torch.cat([part.reference for part in parts]),
        deflated=torch.cat([part.deflated for part in parts]),
        rank_deficit=torch.cat([part.rank_deficit for part in parts]),
        sigma=torch.cat([part.sigma for part in parts]),
    )


def scores_from_jacobian(jacobian: Tensor, nulls: Tensor | None) -> Scores:
    """Both scores from Jacobians `(B, d, n)` and an orthonormal basis `(B, d, m)` of structural null directions."""
    outputs, inputs = jacobian.shape[1:]
    if nulls is None:
        sigma = full = singular_values(jacobian)
    elif outputs > inputs:  # the null directions of the head lie among the d - n that vanish anyway
        full = singular_values(jacobian)
        sigma = singular_values(project_out(jacobian, nulls), keep=min(outputs - nulls.shape[2], inputs))
    else:
        rest = project_out(jacobian, nulls)
        sigma = singular_values(rest, keep=outputs - nulls.shape[2])
        full = torch.cat([sigma, _null_singular_values(jacobian, rest, nulls)], dim=1)
    return Scores(
        reference=log_sum(full).cpu(),
        deflated=log_sum(sigma).cpu(),
        rank_deficit=(sigma <= LOG_FLOOR).sum(dim=1).cpu(),
        sigma=sigma.cpu(),
    )


def log_sum(sigma: Tensor) -> Tensor:
    """`sum_i log max(sigma_i, 1e-6)` over the last axis, natural logarithm."""
    return sigma.clamp_min(LOG_FLOOR).log().sum(dim=-1)


def singular_values(jacobian: Tensor, keep: int | None = None) -> Tensor:
    """The `keep` (default min(d, n)) largest singular values of `(B, d, n)`: float64 `(B, keep)`, descending.

    From the eigenvalues of the smaller Gram matrix, accumulated in float64, which for well-conditioned Jacobians is
    as exact as an SVD and several times faster; images whose spectrum is too wide for that get the SVD. A Jacobian
    with an infinite or undefined entry gives NaN.
    """
    keep = min(jacobian.shape[1:]) if keep is None else keep
    finite = jacobian.isfinite().flatten(1).all(dim=1)
    jacobian = torch.where(finite.view(-1, 1, 1), jacobian, 0.0)
    values = torch.linalg.eigvalsh(_gram(jacobian)).flip(-1)[:, :keep].clamp_min(0.0)
    sigma = values.sqrt()
    wide = values[:, -1] < _GRAM_CONDITION * values[:, 0]
    for index in wide.nonzero().flatten().tolist():
        sigma[index] = torch.linalg.svdvals(jacobian[index].to(torch.float64))[:keep]
    return torch.where(finite.unsqueeze(1), sigma, torch.nan)


def _null_singular_values(jacobian: Tensor, rest: Tensor, nulls: Tensor) -> Tensor:
    """The singular values that the structural null directions carry: float64 `(B, m)`, ascending.

    They are tiny, mostly rounding of the rows, and would drown in the rounding of the whole Gram matrix, for which the
    alternative is an SVD of the whole Jacobian. The m rows `N^T J` hold them exactly: `S = C - X^T G^+ X` with
    `C = N^T J J^T N`, `X = rest J^T N`, `G = rest rest^T` is the Schur complement whose eigenvalues are their squares,
    to a relative error of `|X|^2 / lambda_min(G)^2`.
    """
    rows = nulls.transpose(1, 2).to(rest) @ jacobian.to(torch.float64)
    finite = rows.isfinite().flatten(1).all(dim=1).view(-1, 1, 1)
    rows, rest = torch.where(finite, rows, 0.0), torch.where(finite, rest, 0.0)
    values, vectors = torch.linalg.eigh(_gram(rest))
    inverse = torch.where(values > _GRAM_NOISE * values[:, -1:], 1.0 / values, 0.0)
    shared = vectors.transpose(1, 2) @ (rest @ rows.transpose(1, 2))
    schur = rows @ rows.transpose(1, 2) - shared.transpose(1, 2) @ (inverse.unsqueeze(-1) * shared)
    sigma = torch.linalg.eigvalsh(schur).clamp_min(0.0).sqrt()
    return torch.where(finite.squeeze(-1), sigma, torch.nan)


def _gram(jacobian: Tensor) -> Tensor:
    """`J J^T` or `J^T J`, whichever is smaller, float64 `(B, m, m)`."""
    return outer_gram(jacobian if jacobian.shape[1] <= jacobian.shape[2] else jacobian.transpose(1, 2))


def outer_gram(rows: Tensor) -> Tensor:
    """`A A^T` of `(B, m, n)`: float64 `(B, m, m)`, summed over column blocks to bound memory."""
    size, columns = rows.shape[1:]
    gram = torch.zeros(rows.shape[0], size, size, dtype=torch.float64, device=rows.device)
    for start in range(0, columns, _COLUMN_BLOCK):
        block = rows[:, :, start : start + _COLUMN_BLOCK].to(torch.float64)
        gram += block @ block.transpose(1, 2)
    return gram


def project_out(jacobian: Tensor, basis: Tensor) -> Tensor:
    """`(I - N N^T) J` in float64."""
    rows = jacobian.to(torch.float64)
    basis = basis.to(rows.device)
    return rows - basis @ (basis.transpose(1, 2) @ rows)
