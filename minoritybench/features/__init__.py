"""Feature extractors: images to the vectors that distances are measured on."""

from __future__ import annotations

from typing import Protocol

import numpy as np
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


def load_extractor(name: str) -> Extractor:
    """A registered extractor."""
    extractor: Extractor = resolve("features", name)(name)
    return extractor
