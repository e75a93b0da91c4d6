"""Improved precision and recall, density and coverage, through the `prdc` package. All: higher is better.

Reference: Kynkaanniemi et al. 2019 (precision, recall); Naeem et al. 2020 (density, coverage); k = 5 as in
arXiv:2605.24631. Neighbourhoods exclude the point itself and membership is strict.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

from minoritybench.errors import BadInputError
from minoritybench.metrics.value import MetricValue, paired_features

DEFAULT_K = 5


def precision(*, real: Any, fake: Any, k: int = DEFAULT_K) -> MetricValue:
    """Share of fake points inside the k-nearest-neighbour ball of some real point."""
    return manifold_metrics(real=real, fake=fake, k=k)["precision"]


def recall(*, real: Any, fake: Any, k: int = DEFAULT_K) -> MetricValue:
    """Share of real points inside the k-nearest-neighbour ball of some fake point."""
    return manifold_metrics(real=real, fake=fake, k=k)["recall"]


def density(*, real: Any, fake: Any, k: int = DEFAULT_K) -> MetricValue:
    """Mean number of real balls that hold a fake point, over k; 1 for equal distributions, may exceed 1."""
    return manifold_metrics(real=real, fake=fake, k=k)["density"]


def coverage(*, real: Any, fake: Any, k: int = DEFAULT_K) -> MetricValue:
    """Share of real points whose ball holds a fake point; below 1 even for equal distributions."""
    return manifold_metrics(real=real, fake=fake, k=k)["coverage"]


def manifold_metrics(*, real: Any, fake: Any, k: int = DEFAULT_K) -> dict[str, MetricValue]:
    """All four at once, for they share their distance matrices."""
    if k < 1:
        raise BadInputError(f"k must be at least 1, not {k}")
    real, fake = paired_features(real, fake, minimum=k + 2)  # prdc partitions k + 1 distances, the point's own included
    from prdc import compute_prdc

    with contextlib.redirect_stdout(io.StringIO()):  # the package prints, and stdout is data
        values = compute_prdc(real_features=real, fake_features=fake, nearest_k=k)
    params = {"k": k, "n_real": len(real), "n_fake": len(fake)}
    return {
        name: MetricValue(float(values[name]), params=params) for name in ("precision", "recall", "density", "coverage")
    }
