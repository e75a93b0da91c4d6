"""Set metrics over per-image JEPA-SCOREs."""

from __future__ import annotations

from typing import Any

import numpy as np

from minoritybench.metrics.value import MetricValue, checked_features


def mean_jepa_score(scores: Any) -> MetricValue:
    """Mean of per-image scores `(N,)`. Lower: rarer samples. Reference: arXiv:2605.24631, Table 1."""
    values = checked_features("score", np.reshape(scores, (-1, 1)), minimum=1)
    return MetricValue(float(values.mean()), params={"n_fake": len(values)})


def minority_share(scores: Any, *, threshold: float) -> MetricValue:
    """Share of samples scoring at or below `threshold`, the score of a reference set's last member. Higher: more of
    the samples are as rare as the set."""
    values = checked_features("score", np.reshape(scores, (-1, 1)), minimum=1)
    return MetricValue(float((values <= threshold).mean()), params={"threshold": threshold, "n_fake": len(values)})
