"""JEPA guidance: the gradient of the top-k JEPA-SCORE, matrix-free."""

from minoritybench.guidance.gradient import ScoreGradient, score_gradient

__all__ = ["ScoreGradient", "score_gradient"]
