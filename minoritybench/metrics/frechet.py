"""Frechet distance between Gaussians fitted to two feature sets. Lower is better.

Reference: Heusel et al. 2017 (FID), Eq. 6; Dowson and Landau 1982. Differs: tr (S1 S2)^(1/2) comes from symmetric
eigenvalues in float64, not from a matrix square root: with S1 = U L U^T and F = U L^(1/2) it is the sum of the square
roots of the eigenvalues of F^T S2 F. Exact for singular covariances too, and several times faster.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from minoritybench.metrics.value import MetricValue, paired_features

Array = NDArray[np.float64]


def frechet_distance(*, real: Any, fake: Any) -> MetricValue:
    """Frechet distance of `(N, D)` and `(M, D)` features, covariances with n - 1. Biased upwards at small n: compare
    only equal N and M."""
    real, fake = paired_features(real, fake, minimum=2)
    value = gaussian_frechet(real.mean(axis=0), _covariance(real), fake.mean(axis=0), _covariance(fake))
    return MetricValue(value, params={"n_real": len(real), "n_fake": len(fake)})


def gaussian_frechet(mean1: Array, cov1: Array, mean2: Array, cov2: Array) -> float:
    """||m1 - m2||^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2), clipped at 0 against rounding."""
    eigenvalues, vectors = np.linalg.eigh(cov1)
    factor = vectors * np.sqrt(np.clip(eigenvalues, 0.0, None))
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(factor.T @ cov2 @ factor), 0.0, None)).sum()
    distance = np.sum((mean1 - mean2) ** 2) + np.trace(cov1) + np.trace(cov2) - 2.0 * cross
    return max(float(distance), 0.0)


def _covariance(features: Array) -> Array:
    centred = features - features.mean(axis=0)
    covariance: Array = centred.T @ centred / (len(features) - 1)
    return covariance
