"""Singular values of a Jacobian and the JEPA-SCORE read off them.

Reference: JEPA-SCORE, arXiv:2510.05949; arXiv:2605.24631 Eq. 3. Differs: products are accumulated in float64, and the
head's structural null directions, which carry rounding noise instead of density, can be left out (`deflated`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

LOG_FLOOR = 1e-6
"""Singular values at or below this count as this: the published clamp, and the threshold of a rank deficit."""

COLUMN_BLOCK = 8192
"""Columns of a Jacobian widened to float64 at a time."""
_GRAM_CONDITION = 1e-9
"""Where lambda_min / lambda_max of the Gram matrix falls below this, its square root has lost digits."""
NULL_GAP = 1e-4
"""Declared null directions count as such where their eigenvalues are below this part of the smallest other one."""
_ENERGY_OF_NONE = 1e-2
"""A declared direction w is certainly no null direction where `|w^T J|^2` exceeds this part of the mean eigenvalue:
rounding, of bfloat16 too, stays far below, whereas a direction drawn at random has the mean."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scores:
    """Scores of `B` images, all float64 on the CPU.

    `reference` sums log max(sigma, 1e-6) over all min(d, n) singular values (the published JEPA-SCORE); `deflated`
    leaves out the structural null directions; `rank_deficit` (int64) counts the remaining values at or below 1e-6;
    `sigma` `(B, r)` holds the remaining values, descending. `approximation` says in words where the scores are not
    exact (rows of reduced precision), and is None where they are. `gram` is `J J^T` `(B, d, d)` of the whole Jacobians,
    kept only until somebody has looked at it.
    """

    reference: Tensor
    deflated: Tensor
    rank_deficit: Tensor
    sigma: Tensor
    approximation: str | None = None
    gram: Tensor | None = None


def joined(parts: Sequence[Scores]) -> Scores:
    """Scores of several groups of images as one."""
    grams = [part.gram for part in parts if part.gram is not None]
    return Scores(
        reference=torch.cat([part.reference for part in parts]),
        deflated=torch.cat([part.deflated for part in parts]),
        rank_deficit=torch.cat([part.rank_deficit for part in parts]),
        sigma=torch.cat([part.sigma for part in parts]),
        approximation=parts[0].approximation,
        gram=torch.cat(grams) if grams else None,
    )


def scores_from_jacobian(jacobian: Tensor, nulls: Tensor | None) -> Scores:
    """Both scores from Jacobians `(B, d, n)` and an orthonormal basis `(B, d, m)` of structural null directions.

    Image by image: batched products take other kernels for other batch sizes, and with several threads the last digit
    would depend on how many images came together.
    """
    each = [None if nulls is None else nulls[i : i + 1] for i in range(len(jacobian))]
    return joined([_scores_of_one(jacobian[i : i + 1], basis) for i, basis in enumerate(each)])


def _scores_of_one(jacobian: Tensor, nulls: Tensor | None) -> Scores:
    if jacobian.shape[1] <= jacobian.shape[2]:
        return scores_from_blocks(lambda: column_blocks(jacobian), nulls)
    full = singular_values(jacobian)
    gram, null_gram, _ = _products(column_blocks(jacobian), nulls)
    if nulls is None:
        return _scores(full, full, gram)
    _tell_if_none(gram, null_gram)
    # With d > n the null directions of the head lie among the d - n that vanish anyway.
    kept = min(jacobian.shape[1] - nulls.shape[2], jacobian.shape[2])
    return _scores(full, singular_values(project_out(jacobian, nulls), keep=kept), gram)


def scores_from_blocks(
    blocks: Callable[[], Iterable[Tensor]], nulls: Tensor | None, null_gap: float = NULL_GAP
) -> Scores:
    """Both scores of Jacobians with d <= n, given as float64 blocks of columns `(B, d, w)`, to be gone through twice.

    With null directions N, the deflated spectrum is that of `P J J^T P`, `P = I - N N^T`. The m values beside it in the
    whole spectrum are those of `N^T J` less its part in the span of the rows of `P J`, a Schur complement: the product
    of all is exact, each to a relative error of `null_gap`. They are taken from `N^T J` itself, for in `J J^T` they
    drown in rounding. An image whose deflated spectrum is too wide for a Gram matrix, or whose declared nulls are none
    by `null_gap`, gets the SVD of its Jacobian. Nulls that are clearly none are left out all the same, with one warning
    a process. An image whose Jacobian or null directions are not finite gets NaN.
    """
    gram, null_gram, cross = _products(blocks(), nulls)
    finite = gram.isfinite().flatten(1).all(dim=1)
    if nulls is not None:
        finite &= nulls.isfinite().flatten(1).all(dim=1).to(finite.device)
    gram = torch.where(finite.view(-1, 1, 1), gram, 0.0)
    if nulls is None:
        values = torch.linalg.eigvalsh(gram).flip(-1).clamp_min(0.0)
        full = sigma = values.sqrt()
        doubtful = values[:, -1] < _GRAM_CONDITION * values[:, 0]
    else:
        nulls, null_gram, cross = (
            torch.where(finite.view(-1, 1, 1), part, 0.0) for part in (nulls.to(gram.device), null_gram, cross)
        )
        _tell_if_none(gram, null_gram)
        keep = gram.shape[1] - nulls.shape[2]
        projector = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device) - nulls @ nulls.transpose(1, 2)
        values, vectors = torch.linalg.eigh(projector @ gram @ projector)
        values, vectors = values[:, -keep:].flip(-1).clamp_min(0.0), vectors[:, :, -keep:].flip(-1)
        doubtful = values[:, -1] < _GRAM_CONDITION * values[:, 0]
        part = vectors.transpose(1, 2) @ cross
        weighted = part / values.unsqueeze(2).clamp_min(torch.finfo(torch.float64).tiny)
        below = torch.linalg.eigvalsh(null_gram - part.transpose(1, 2) @ weighted).flip(-1).clamp_min(0.0)
        doubtful |= ~(below[:, 0] <= null_gap * values[:, -1])
        sigma = values.sqrt()
        full = torch.cat([sigma, below.sqrt()], dim=1)
    for index in (doubtful & finite).nonzero().flatten().tolist():
        jacobian = torch.cat([block[index] for block in blocks()], dim=1)
        full[index] = torch.linalg.svdvals(jacobian)
        if nulls is not None:
            projected = project_out(jacobian.unsqueeze(0), nulls[index : index + 1])[0]
            sigma[index] = torch.linalg.svdvals(projected)[: sigma.shape[1]]
    undefined = ~finite.unsqueeze(1)
    gram = gram.masked_fill(undefined.unsqueeze(2), torch.nan)
    return _scores(full.masked_fill(undefined, torch.nan), sigma.masked_fill(undefined, torch.nan), gram)


def _tell_if_none(gram: Tensor, null_gram: Tensor) -> None:
    """Warn, once a process, where `N^T J J^T N` `(B, m, m)` beside `J J^T` `(B, d, d)` says that N is not null."""
    mean = gram.diagonal(dim1=1, dim2=2).mean(dim=1, keepdim=True)
    if bool((null_gram.diagonal(dim1=1, dim2=2) > _ENERGY_OF_NONE * mean).any()):
        _warn_of_false_nulls()


@cache
def _warn_of_false_nulls() -> None:
    _log.warning(
        "declared null directions are none: the encoder's Jacobian does not vanish along what its null_directions"
        " returns; deflated scores leave these directions out all the same, so they lack what the Jacobian does there"
    )


def column_blocks(jacobian: Tensor) -> Iterator[Tensor]:
    """`(B, d, n)` as float64 blocks of columns, which bound the memory of the wider type."""
    for start in range(0, jacobian.shape[2], COLUMN_BLOCK):
        yield jacobian[:, :, start : start + COLUMN_BLOCK].to(torch.float64)


def _products(blocks: Iterable[Tensor], nulls: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """`J J^T` `(B, d, d)`, `N^T J J^T N` `(B, m, m)` and `J J^T N` `(B, d, m)`, the last two by way of `N^T J`."""
    gram: Tensor | None = None
    for block in blocks:
        if gram is None:
            basis = block.new_zeros(*block.shape[:2], 0) if nulls is None else nulls.to(block.device)
            gram = block @ block.transpose(1, 2)
            along = basis.transpose(1, 2) @ block
            null_gram, cross = along @ along.transpose(1, 2), block @ along.transpose(1, 2)
        else:
            along = basis.transpose(1, 2) @ block
            gram += block @ block.transpose(1, 2)
            null_gram += along @ along.transpose(1, 2)
            cross += block @ along.transpose(1, 2)
    if gram is None:
        raise ValueError("a Jacobian needs at least one block of columns")
    return gram, null_gram, cross


def _scores(full: Tensor, sigma: Tensor, gram: Tensor) -> Scores:
    return Scores(
        reference=log_sum(full).cpu(),
        deflated=log_sum(sigma).cpu(),
        rank_deficit=(sigma <= LOG_FLOOR).sum(dim=1).cpu(),
        sigma=sigma.cpu(),
        gram=gram,
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


def _gram(jacobian: Tensor) -> Tensor:
    """`J J^T` or `J^T J`, whichever is smaller, float64 `(B, m, m)`."""
    wide = jacobian if jacobian.shape[1] <= jacobian.shape[2] else jacobian.transpose(1, 2)
    return _products(column_blocks(wide), None)[0]


def project_out(jacobian: Tensor, basis: Tensor) -> Tensor:
    """`(I - N N^T) J` in float64."""
    rows = jacobian.to(torch.float64)
    basis = basis.to(rows.device)
    return rows - basis @ (basis.transpose(1, 2) @ rows)
