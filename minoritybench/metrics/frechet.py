"""Frechet distance between Gaussians fitted to two feature sets. Lower is better.

Reference: Heusel et al. 2017 (FID), Eq. 6; Dowson and Landau 1982. Differs: tr (S1 S2)^(1/2) comes from symmetric
eigenvalues in float64, not from a matrix square root: with S1 = F F^T it is the sum of the square roots of the
eigenvalues of F^T S2 F. F is a Cholesky factor where one of the two is well conditioned, else U L^(1/2) from
S1 = U L U^T, which is exact for singular covariances too.

On Inception features this is FID, on a layer of them sFID, on DINOv2 features FD-DINOv2: it depends on the features and
on how images were resized for them, and through its bias on N and M (`frechet_bias_floor`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minoritybench.errors import BadInputError
from minoritybench.metrics.moments import FeatureMoments
from minoritybench.metrics.value import MetricValue

Array = NDArray[np.float64]

ROUNDING = 1e-6
"""How far below zero a distance may come out, as a share of the traces, before it is a fault and not rounding."""
LEAST_PIVOT = 1e-10
"""Share of the largest pivot below which a Cholesky factor is not trusted: rounding leaves about 1e-16 of it."""
WELL_ABOVE = 4
"""Rows a dimension from which the bias is given: the expansion is of first order in D / n, and at 4 it was within 4 %
of simulated distances (tests/metrics/test_frechet.py)."""


def frechet_distance(*, real: Any, fake: Any, device: str = "cpu") -> MetricValue:
    """Frechet distance of `(N, D)` and `(M, D)` features, or of their `FeatureMoments`; covariances with n - 1. Biased
    upwards at small n: compare only equal N and M."""
    a, b = _moments("real", real, device), _moments("fake", fake, device)
    if len(a.mean) != len(b.mean):
        raise BadInputError(f"real features have {len(a.mean)} columns and fake ones {len(b.mean)}")
    value = gaussian_frechet(a.mean, a.covariance, b.mean, b.covariance, device=device)
    return MetricValue(value, params={"n_real": a.n, "n_fake": b.n})


def gaussian_frechet(mean1: Array, cov1: Array, mean2: Array, cov2: Array, *, device: str = "cpu") -> float:
    """||m1 - m2||^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2), clipped at 0 against rounding."""
    first, second = (torch.from_numpy(np.asarray(cov, dtype=np.float64)).to(device) for cov in (cov1, cov2))
    cross = float(torch.linalg.eigvalsh(_product(first, second)).clamp(min=0).sqrt().sum())
    traces = float(first.trace() + second.trace())
    distance = float(np.sum((mean1 - mean2) ** 2)) + traces - 2.0 * cross
    assert distance >= -ROUNDING * traces, f"Frechet distance {distance} of covariances with traces {traces}"
    return max(distance, 0.0)


def _product(first: Tensor, second: Tensor) -> Tensor:
    """A symmetric matrix with the eigenvalues of `first @ second`."""
    for one, other in ((first, second), (second, first)):
        factor, failed = torch.linalg.cholesky_ex(one)
        pivots = factor.diagonal().square()
        if not failed and pivots.min() > LEAST_PIVOT * pivots.max():
            return factor.T @ other @ factor
    eigenvalues, vectors = torch.linalg.eigh(first)
    factor = vectors * eigenvalues.clamp(min=0).sqrt()
    return factor.T @ second @ factor


def frechet_bias_floor(covariance: Array, n_real: int, n_fake: int) -> float | None:
    """Expected distance of two samples of one Gaussian: what a perfect generator scores at these sizes.

    `covariance` `(D, D)` or its eigenvalues `(D,)`. With l the eigenvalues, and to first order in D / n,
    `(1/N + 1/M) [tr S + 1/2 sum_ij l_i l_j (1 + delta_ij) / (l_i + l_j)]`; None where N or M is below `WELL_ABOVE` D,
    where higher orders matter. Features that are not Gaussian have another floor.
    """
    covariance = np.asarray(covariance, dtype=np.float64)
    spectrum = np.clip(np.linalg.eigvalsh(covariance) if covariance.ndim == 2 else covariance, 0.0, None)
    if min(n_real, n_fake) < WELL_ABOVE * len(spectrum):
        return None
    sums = spectrum[:, None] + spectrum
    pairs = np.divide(np.outer(spectrum, spectrum), sums, out=np.zeros_like(sums), where=sums > 0)
    return float((1 / n_real + 1 / n_fake) * (spectrum.sum() + 0.5 * (pairs.sum() + pairs.trace())))


def _moments(name: str, side: Any, device: str) -> FeatureMoments:
    return side if isinstance(side, FeatureMoments) else FeatureMoments.of(side, name=name, device=device)
