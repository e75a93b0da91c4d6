"""Metrics: one function each, over feature or score arrays, without I/O or hidden state.

Two-sample metrics take keyword-only `real` and `fake`, because a trusted toolkit once shipped precision and recall
swapped through positional arguments.
"""

from minoritybench.metrics.clip_score import clip_score, open_clip_score
from minoritybench.metrics.frechet import frechet_bias_floor, frechet_distance
from minoritybench.metrics.image_reward import image_reward, open_image_reward
from minoritybench.metrics.inception_score import inception_score
from minoritybench.metrics.jepa import mean_jepa_score, minority_share
from minoritybench.metrics.kid import kid
from minoritybench.metrics.lpips_diversity import lpips_diversity
from minoritybench.metrics.manifold import (
    coverage,
    coverage_ceiling,
    density,
    manifold_metrics,
    precision,
    rarity_score,
    rarity_scores,
    rarity_valid_share,
    recall,
)
from minoritybench.metrics.memorisation import authenticity, nearest_training_images
from minoritybench.metrics.moments import FeatureMoments, RunningMoments
from minoritybench.metrics.neighbours import avgknn, lof
from minoritybench.metrics.pick_score import open_pick_score, pick_score
from minoritybench.metrics.value import MetricValue, t_interval
from minoritybench.metrics.vendi import vendi_score

__all__ = [
    "FeatureMoments",
    "MetricValue",
    "RunningMoments",
    "authenticity",
    "avgknn",
    "clip_score",
    "coverage",
    "coverage_ceiling",
    "density",
    "frechet_bias_floor",
    "frechet_distance",
    "image_reward",
    "inception_score",
    "kid",
    "lof",
    "lpips_diversity",
    "manifold_metrics",
    "mean_jepa_score",
    "minority_share",
    "nearest_training_images",
    "open_clip_score",
    "open_image_reward",
    "open_pick_score",
    "pick_score",
    "precision",
    "rarity_score",
    "rarity_scores",
    "rarity_valid_share",
    "recall",
    "t_interval",
    "vendi_score",
]
