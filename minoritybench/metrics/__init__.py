"""Metrics: one function each, over feature or score arrays, without I/O or hidden state.

Two-sample metrics take keyword-only `real` and `fake`, because a trusted toolkit once shipped precision and recall
swapped through positional arguments.
"""

from minoritybench.metrics.frechet import frechet_distance
from minoritybench.metrics.jepa import mean_jepa_score, minority_share
from minoritybench.metrics.manifold import coverage, density, manifold_metrics, precision, recall
from minoritybench.metrics.value import MetricValue, t_interval

__all__ = [
    "MetricValue",
    "coverage",
    "density",
    "frechet_distance",
    "manifold_metrics",
    "mean_jepa_score",
    "minority_share",
    "precision",
    "recall",
    "t_interval",
]
