"""Gaussian-process regression with one length scale a feature block, small enough to be exact and deterministic.

Reference: Rasmussen and Williams 2006, Algorithm 2.1, Eq. 5.8 (marginal likelihood) and 5.12 (leave-one-out). Differs:
the hyperparameters are searched on a fixed grid, coordinate by coordinate, so that equal data give equal fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_LENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_NOISES = (1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
_SWEEPS = 2
_SEARCH_POINTS = 256
"""Training points that the hyperparameters are searched on; the fit itself uses all of them."""
_PREDICT_ROWS = 4096


@dataclass(frozen=True)
class GaussianProcess:
    """A fitted regression. `lengths` in units of a block's root-mean-square standardised distance; `noise` is the
    noise variance as a share of the signal's."""

    lengths: tuple[float, ...]
    noise: float
    _amplitude: float
    _centre: float
    _scale: float
    _shift: tuple[Tensor, ...]
    _spread: tuple[Tensor, ...]
    _inputs: tuple[Tensor, ...]
    _factor: Tensor
    _weights: Tensor

    def predict(self, blocks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of a new observation at features `[(M, p_b), ...]`: two float64 `(M,)`."""
        means, deviations = [], []
        for start in range(0, blocks[0].shape[0], _PREDICT_ROWS):
            part = [block[start : start + _PREDICT_ROWS] for block in blocks]
            cross = _kernel(_squares(self._standard(part), self._inputs), self.lengths)
            explained = torch.linalg.solve_triangular(self._factor, cross.T, upper=False).square().sum(dim=0)
            means.append(self._centre + self._scale * (cross @ self._weights))
            variance = self._amplitude * (1.0 + self.noise - explained).clamp_min(1e-12)
            deviations.append(self._scale * variance.sqrt())
        return torch.cat(means), torch.cat(deviations)

    def leave_one_out(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each training target `(N,)` as predicted from all the others."""
        precision = torch.cholesky_inverse(self._factor).diagonal()
        observed = (targets.to(torch.float64) - self._centre) / self._scale
        means = observed - self._weights / precision
        return self._centre + self._scale * means, self._scale * (self._amplitude / precision).sqrt()

    def _standard(self, blocks: Sequence[Tensor]) -> list[Tensor]:
        return [
            _standardised(block, shift, spread)
            for block, shift, spread in zip(blocks, self._shift, self._spread, strict=True)
        ]


def fit_gaussian_process(blocks: Sequence[Tensor], targets: Tensor) -> GaussianProcess:
    """Fit targets `(N,)` on feature blocks `[(N, p_b), ...]`, `N >= 2`; everything in float64.

    Each feature is standardised over the training points, each block's squared distance divided by its width; a block
    of no features counts for nothing.
    """
    blocks = [block.to(torch.float64) for block in blocks]
    targets = targets.to(torch.float64)
    centre, scale = float(targets.mean()), max(float(targets.std(correction=0)), 1e-12)
    observed = (targets - centre) / scale
    shift = tuple(block.mean(dim=0) for block in blocks)
    spread = tuple(
        (block - mean).square().mean(dim=0).sqrt().clamp_min(1e-9) for block, mean in zip(blocks, shift, strict=True)
    )
    inputs = tuple(_standardised(b, m, s) for b, m, s in zip(blocks, shift, spread, strict=True))
    count = len(observed)
    chosen = torch.linspace(0, count - 1, min(count, _SEARCH_POINTS)).round().long()
    lengths, noise = _search(_squares([block[chosen] for block in inputs]), observed[chosen])
    gram = _kernel(_squares(inputs), lengths) + noise * torch.eye(count, dtype=torch.float64)
    factor = torch.linalg.cholesky(gram)
    weights = torch.cholesky_solve(observed.unsqueeze(1), factor).squeeze(1)
    amplitude = max(float(observed @ weights) / count, 1e-12)
    return GaussianProcess(lengths, noise, amplitude, centre, scale, shift, spread, inputs, factor, weights)


def _search(squares: list[Tensor], observed: Tensor) -> tuple[tuple[float, ...], float]:
    """Length scales and noise of the highest marginal likelihood, by coordinate sweeps over the grid."""
    lengths = [2.0] * len(squares)
    best, noise = _likelihood(squares, lengths, observed)
    for _ in range(_SWEEPS):
        for block in range(len(squares)):
            for length in _LENGTHS:
                tried = [*lengths[:block], length, *lengths[block + 1 :]]
                value, its_noise = _likelihood(squares, tried, observed)
                if value > best:
                    best, noise, lengths = value, its_noise, tried
    return tuple(lengths), noise


def _likelihood(squares: list[Tensor], lengths: Sequence[float], observed: Tensor) -> tuple[float, float]:
    """The highest log marginal likelihood over the noise grid, the amplitude maximised analytically, and its noise."""
    values, vectors = torch.linalg.eigh(_kernel(squares, lengths))
    turned = (vectors.T @ observed).square()
    best = (-float("inf"), _NOISES[-1])
    for noise in _NOISES:
        widths = values.clamp_min(0.0) + noise
        amplitude = float((turned / widths).mean())
        value = -0.5 * len(observed) * float(torch.tensor(amplitude).log()) - 0.5 * float(widths.log().sum())
        best = max(best, (value, noise))
    return best


def _standardised(block: Tensor, shift: Tensor, spread: Tensor) -> Tensor:
    return (block.to(torch.float64) - shift) / spread / max(block.shape[1], 1) ** 0.5


def _squares(left: Sequence[Tensor], right: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Squared distances of each block, `(N, M)`."""
    pairs = zip(left, left if right is None else right, strict=True)
    return [
        torch.cdist(a, b).square() if a.shape[1] else torch.zeros(len(a), len(b), dtype=torch.float64) for a, b in pairs
    ]


def _kernel(squares: Sequence[Tensor], lengths: Sequence[float]) -> Tensor:
    exponent = torch.stack([block / length**2 for block, length in zip(squares, lengths, strict=True)]).sum(dim=0)
    return (-0.5 * exponent).exp()
