"""Mean and covariance of a feature set, streamed in float64 blocks and kept in a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minoritybench.errors import BadInputError
from minoritybench.metrics.value import checked_features
from minoritybench.store import atomic_path

BLOCK = 2048
"""Rows that become float64 at a time; fixed, so that no batch size enters a result."""
_NAMES = {"n", "mean", "covariance"}


@dataclass(frozen=True)
class FeatureMoments:
    """What a Gaussian fit needs of `n` feature rows: `mean` `(D,)` and `covariance` `(D, D)` with n - 1, float64."""

    n: int
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @staticmethod
    def of(features: Any, *, name: str = "given", device: str = "cpu") -> FeatureMoments:
        """Moments of `(N, D)` features, N >= 2; float32 ones are never copied whole to float64."""
        rows = checked_features(name, features, minimum=2, keep_float32=True)
        running = RunningMoments(device=device)
        running.add(rows)
        return running.moments()

    def save(self, path: Path) -> None:
        """Write a safetensors file, atomically."""
        from safetensors.numpy import save_file

        arrays = {"n": np.array([self.n]), "mean": self.mean, "covariance": self.covariance}
        with atomic_path(path) as part:
            save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, part)

    @staticmethod
    def load(path: Path) -> FeatureMoments:
        """Read a file of `save`; one line of error where it is none."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            arrays = load_file(path)
        except (OSError, SafetensorError) as error:
            raise BadInputError(f"{path} cannot be read as feature moments: {error}") from error
        if set(arrays) != _NAMES or arrays["covariance"].shape != 2 * arrays["mean"].shape:
            raise BadInputError(f"{path} holds no feature moments: n, mean (D,) and covariance (D, D) are needed")
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise BadInputError(f"{path} holds NaN or infinite moments")
        return FeatureMoments(int(arrays["n"][0]), arrays["mean"], arrays["covariance"])


class RunningMoments:
    """Moments of rows that come in batches of any size; the batches enter no bit of the result.

    Reference: Chan, Golub and LeVeque 1979, the pairwise update: every full block is centred by its own mean, so
    nothing cancels however far the features lie from zero.
    """

    def __init__(self, *, device: str = "cpu") -> None:
        self._device = torch.device(device)
        self._n = 0
        self._mean = self._scatter = torch.zeros(0)
        self._waiting: Tensor | None = None

    def add(self, batch: Any) -> None:
        """Take `(B, D)` rows, finite."""
        rows = torch.from_numpy(checked_features("batch", batch, minimum=0, keep_float32=True))
        if self._waiting is not None:
            if rows.shape[1] != self._waiting.shape[1]:
                raise BadInputError(f"a batch has {rows.shape[1]} columns, those before it {self._waiting.shape[1]}")
            rows = torch.cat([self._waiting, rows]) if len(self._waiting) else rows
        whole = len(rows) // BLOCK * BLOCK
        for start in range(0, whole, BLOCK):
            self._n, self._mean, self._scatter = self._with(rows[start : start + BLOCK])
        self._waiting = rows[whole:].clone()

    def moments(self) -> FeatureMoments:
        """Of everything added so far, two rows or more."""
        waiting = self._waiting
        n, mean, scatter = (
            (self._n, self._mean, self._scatter) if waiting is None or not len(waiting) else self._with(waiting)
        )
        if n < 2:
            raise BadInputError(f"a covariance needs 2 rows or more, not {n}")
        return FeatureMoments(n, mean.cpu().numpy(), (scatter / (n - 1)).cpu().numpy())

    def _with(self, rows: Tensor) -> tuple[int, Tensor, Tensor]:
        """Count, mean and scatter `sum (x - mean)(x - mean)^T` once `rows` are in."""
        block = rows.to(device=self._device, dtype=torch.float64)
        own = block.mean(dim=0)
        block = block - own
        scatter = block.T @ block
        if not self._n:
            return len(block), own, scatter
        total = self._n + len(block)
        step = own - self._mean
        scatter += self._scatter
        scatter.addr_(step, step, alpha=self._n * len(block) / total)
        return total, self._mean + step * (len(block) / total), scatter
