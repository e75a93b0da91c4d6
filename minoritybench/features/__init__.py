"""Feature extractors: images to the vectors that distances are measured on."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minoritybench.registry import resolve


class Extractor(Protocol):
    """`name` and `weights_sha256` belong to the metrics that use it."""

    name: str
    weights_sha256: str | None

    def __call__(self, images: Tensor) -> NDArray[np.float32]:
        """Float `(N, 3, H, W)` in `[0, 1]` to features `(N, D)`; row i depends on image i alone."""
        ...


class ExtractorEncoder:
    """An extractor where an encoder is asked for, for its values only: preparing describes, calling changes nothing,
    and there is no Jacobian. Each image is described alone, whatever its size."""

    micro_batch = 64

    def __init__(self, extractor: Extractor) -> None:
        self.name, self.weights_sha256 = extractor.name, extractor.weights_sha256
        self._extractor = extractor

    def prepare(self, images: Tensor) -> Tensor:
        """Float `(B, 3, H, W)` in `[0, 1]` to features `(B, D)`."""
        return torch.from_numpy(self._extractor(images))

    def __call__(self, prepared: Tensor) -> Tensor:
        """The features themselves."""
        return prepared


def load_extractor(name: str) -> Extractor:
    """A registered extractor."""
    extractor: Extractor = resolve("features", name)(name)
    return extractor
