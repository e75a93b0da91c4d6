"""Vendi score: the effective number of different samples. Higher: more diverse.

Reference: Friedman and Dieng 2023; orders q, Pasarkar and Dieng 2024. `exp` of the Renyi entropy of the eigenvalues of
K / n, with K the cosine similarities of n samples. Depends on the features and grows with n up to their number of
modes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minoritybench.errors import BadInputError
from minoritybench.metrics.value import MetricValue, checked_features

_BLOCK = 2048


def vendi_score(*, fake: Any, q: float = 1.0) -> MetricValue:
    """Vendi score of order q (0 < q, infinity included) of `(M, D)` features, none of them zero; between 1 and M.

    For M > D the eigenvalues come from `X^T X / n`, which is D x D and has the same ones but for zeros.
    """
    rows = checked_features("fake", fake, minimum=1, keep_float32=True)
    if not q > 0:
        raise BadInputError(f"q must be above 0, not {q}")
    spectrum = np.linalg.eigvalsh(_similarity(rows))
    spectrum = spectrum[spectrum > len(spectrum) * np.finfo(np.float64).eps]  # the rest is zero up to rounding
    if q == 1:
        value = np.exp(-(spectrum * np.log(spectrum)).sum())
    elif np.isinf(q):
        value = 1 / spectrum.max()
    else:
        value = (spectrum**q).sum() ** (1 / (1 - q))
    return MetricValue(float(value), params={"n_fake": len(rows), "q": q if np.isfinite(q) else "inf"})


def _similarity(rows: Any) -> Any:
    """`X X^T / n` or, if smaller, `X^T X / n`, with the rows of X of unit length."""
    lengths = np.linalg.norm(rows.astype(np.float64, copy=False), axis=1, keepdims=True)
    if not lengths.all():
        raise BadInputError("fake features hold rows of zeros, which have no direction to compare")
    count, width = rows.shape
    if count <= width:
        unit = rows / lengths
        return unit @ unit.T / count
    gram = np.zeros((width, width))
    for start in range(0, count, _BLOCK):
        unit = rows[start : start + _BLOCK] / lengths[start : start + _BLOCK]
        gram += unit.T @ unit
    return gram / count
