"""The cheap side of a cascade: what to look at before an exact score, and how far to trust it.

A proxy is fitted to exact scores of a calibration sample from features that cost a forward pass and a few
vector-Jacobian products; images that may lie among the lowest are then scored exactly. The orchestration is in
`minoritybench.rank_cascade`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from minoritybench.rng import derived_seed
from minoritybench.scoring.gaussian_process import GaussianProcess
from minoritybench.scoring.jacobian import JacobianGraph

LEAST_MARGIN = 3.0
"""The margin is at least this many predicted standard deviations."""
GIVE_UP = 0.9
"""From this expected share of the full cost on, everything is scored exactly."""
_GRID = 8
_EMPTY_DIRECTION = 1e-8
_TINY = 1e-30


def calibration_size(images: int) -> int:
    """Images scored exactly to fit and to check the proxy: `4 sqrt(images)`, at least 120.

    A fixed share would be too many of a million and too few of a thousand; at this rate the share vanishes while the
    number of lowest images among them, and so what is known of the recall, still grows.
    """
    return min(images, max(120, math.ceil(4 * math.sqrt(images))))


def sketch_rows(dim: int) -> int:
    """Vector-Jacobian products an image: a sixteenth of its rows and at most 16, so none below 16 dimensions."""
    return min(16, dim // 16)


def whitened_probes(gram: Tensor, rows: int, seed: int) -> Tensor:
    """Fixed random cotangents `(rows, d)`, white in the metric of a mean `J J^T` `(d, d)`: float64.

    Without whitening the largest singular values, which hardly move from image to image, would drown the rest.
    """
    values, vectors = torch.linalg.eigh(gram.to(torch.float64))
    used = values > _EMPTY_DIRECTION * values[-1]
    white = vectors[:, used] / values[used].sqrt()
    generator = torch.Generator().manual_seed(derived_seed(seed, "cascade-probes"))
    draws = torch.randn(rows, int(used.sum()), generator=generator, dtype=torch.float64)
    return draws @ white.T


def sketch_features(graph: JacobianGraph, probes: Tensor) -> Tensor:
    """What `r` rows `S J` tell of an image: float64 `(B, r + g)`.

    The logarithms of the r eigenvalues of `S J J^T S^T`, and of the rows' energy in each of g cells of the input (an
    8 x 8 grid for images): where the output depends on the input, which a spectrum alone cannot say.
    """
    if probes.shape[0] == 0:
        return torch.empty(graph.batch, 0, dtype=torch.float64)
    cotangents = probes.to(graph.z).expand(graph.batch, -1, -1)
    rows = graph.vjp(cotangents).to(torch.float64)
    finite = rows.isfinite().flatten(1).all(dim=1)
    rows = torch.where(finite.view(-1, 1, 1), rows, 0.0)
    spectrum = torch.linalg.eigvalsh(rows @ rows.transpose(1, 2)).clamp_min(_TINY).log()
    energy = pooled(rows.square().mean(dim=1).reshape(graph.prepared.shape)).clamp_min(_TINY).log()
    features = torch.cat([spectrum, energy], dim=1).cpu()
    return torch.where(finite.cpu().unsqueeze(1), features, torch.nan)


def pooled(inputs: Tensor) -> Tensor:
    """Means over cells of `(B, ...)`: an 8 x 8 grid at most over the last two axes of images, runs of a flat input.

    Float64 `(B, g)`, `g <= 64`, channels averaged.
    """
    inputs = inputs.detach().to(torch.float64)
    if inputs.ndim == 4:
        size = (min(_GRID, inputs.shape[2]), min(_GRID, inputs.shape[3]))
        return torch.nn.functional.adaptive_avg_pool2d(inputs.mean(dim=1, keepdim=True), size).flatten(1)
    flat = inputs.flatten(1).unsqueeze(1)
    return torch.nn.functional.adaptive_avg_pool1d(flat, min(_GRID**2, flat.shape[2])).squeeze(1)


def margin_of(proxy: GaussianProcess, targets: Tensor, sample: Tensor) -> float:
    """How many predicted standard deviations below its prediction an exact score may lie.

    The worst leave-one-out case among the training points that `sample` (bool `(N,)`) marks as drawn at random, and at
    least `LEAST_MARGIN`. By exchangeability a new image drawn the same way lies lower still with probability
    1 / (m + 1) at most, m the sample's size; it is missed only if it also belongs to the lowest. Infinite for an empty
    sample, which bounds nothing.
    """
    if not bool(sample.any()):
        return math.inf
    means, deviations = proxy.leave_one_out(targets)
    below = (means - targets.to(torch.float64)) / deviations
    return max(LEAST_MARGIN, float(below[sample].max()))


def threshold_so_far(scores: Sequence[float], keep: int) -> float:
    """The `keep`-th lowest of the exact scores so far, an upper bound of the final threshold; infinite if fewer."""
    return sorted(scores)[keep - 1] if len(scores) >= keep else math.inf


def recall_interval(found: int, of: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a proportion; `(0, 1)` where nothing was observed."""
    from scipy.stats import beta  # takes a second to import, which few commands need

    if of == 0:
        return 0.0, 1.0
    tail = (1 - level) / 2
    low = 0.0 if found == 0 else float(beta.ppf(tail, found, of - found + 1))
    high = 1.0 if found == of else float(beta.ppf(1 - tail, found + 1, of - found))
    return low, high
