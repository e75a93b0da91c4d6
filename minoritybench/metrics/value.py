"""What a metric returns, and the interval over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minoritybench.errors import BadInputError

Features = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class MetricValue:
    """A metric's value; the interval is None where one sample set alone gives none. `params` is what it depends on and
    part of its identity; `details` is what else was found on the way and is not."""

    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    params: dict[str, Any] = field(default_factory=dict)
    details: dict[str, float] = field(default_factory=dict)


def checked_features(name: str, array: Any, minimum: int, *, keep_float32: bool = False) -> NDArray[Any]:
    """An `(N, D)` float64 array with at least `minimum` rows, all finite; one line of error otherwise.

    `keep_float32` leaves float32 as it is, for what computes in float64 only where it matters.
    """
    features = np.asarray(array)
    if not (keep_float32 and features.dtype == np.float32):
        features = np.asarray(array, dtype=np.float64)
    if features.ndim != 2:
        raise BadInputError(f"{name} features must be an (N, D) array, not of shape {features.shape}")
    if features.shape[0] < minimum:
        raise BadInputError(f"{name} features: {features.shape[0]} rows, at least {minimum} are needed")
    if not np.isfinite(features).all():
        raise BadInputError(f"{name} features hold NaN or infinite values")
    return features


def paired_features(
    real: Any, fake: Any, minimum: int, *, keep_float32: bool = False
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both sides checked, with equal widths."""
    real = checked_features("real", real, minimum, keep_float32=keep_float32)
    fake = checked_features("fake", fake, minimum, keep_float32=keep_float32)
    if real.shape[1] != fake.shape[1]:
        raise BadInputError(f"real features have {real.shape[1]} columns and fake ones {fake.shape[1]}")
    return real, fake


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float | None, float | None]:
    """Mean and Student-t interval over independent seeds; the interval is None for a single one."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None, None
    from scipy.stats import t

    half = float(t.ppf((1 + level) / 2, len(values) - 1)) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return mean, mean - half, mean + half
