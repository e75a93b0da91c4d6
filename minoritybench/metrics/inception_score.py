"""Inception Score: how sure a classifier is of each sample, and how even over samples. Higher is better.

Reference: Salimans et al. 2016: `exp E KL(p(y | x) || p(y))`. Depends on the classifier, its preprocessing, on whether
its logits have a bias (published values: the 1,008 logits of Inception without it) and on how samples are split. Says
nothing of images outside the classifier's classes, faces above all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from minoritybench.errors import BadInputError
from minoritybench.metrics.value import MetricValue, checked_features

CHUNK = 5000


def inception_score(*, fake: Any, chunk: int = CHUNK, splits: int | None = None, seed: int = 0) -> MetricValue:
    """Mean score over parts of `(M, C)` unbiased logits.

    Parts are those of ADM's evaluator, `chunk` samples each in the order given, a shorter one last; or, with `splits`,
    that many of equal size after a seeded shuffle. The standard deviation over parts is in `details`.
    """
    logits = checked_features("logit", fake, minimum=1)
    if splits is None:
        if chunk < 1:
            raise BadInputError(f"chunk must be at least 1, not {chunk}")
        parts = [logits[start : start + chunk] for start in range(0, len(logits), chunk)]
        params: dict[str, Any] = {"n_fake": len(logits), "chunk": chunk}
    else:
        if not 1 <= splits <= len(logits):
            raise BadInputError(f"splits must be 1 to {len(logits)}, not {splits}")
        parts = np.array_split(np.random.default_rng(seed).permutation(logits), splits)
        params = {"n_fake": len(logits), "splits": splits, "seed": seed}
    values = [_score(part) for part in parts]
    spread = {"sd_over_parts": float(np.std(values, ddof=1))} if len(values) > 1 else {}
    return MetricValue(float(np.mean(values)), params=params, details=spread)


def _score(logits: NDArray[np.float64]) -> float:
    """Of one part, from logarithms throughout: a probability that underflows to zero contributes zero."""
    from scipy.special import log_softmax, logsumexp

    log_p = log_softmax(logits, axis=1)
    log_mean = logsumexp(log_p, axis=0) - np.log(len(log_p))
    return float(np.exp((np.exp(log_p) * (log_p - log_mean)).sum(axis=1).mean()))
