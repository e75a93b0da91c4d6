"""JEPA guidance: the gradient of the top-k JEPA-SCORE, matrix-free."""

from minoritybench.guidance.gradient import ScoreGradient, score_gradient
from minoritybench.guidance.subspace import RangeFinder

__all__ = ["RangeFinder", "ScoreGradient", "score_gradient"]
