"""Feature spaces of the embedded benchmark. They run on the CPU, whatever the device: their values are its."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minoritybench.data.resize import resize
from minoritybench.embedded.data import IMAGE_SIZE
from minoritybench.embedded.models import DigitsClassifier
from minoritybench.embedded.weights import load_module, load_pca, weights_path
from minoritybench.errors import BadInputError
from minoritybench.microbatch import map_micro_batches, torch_threads
from minoritybench.store import sha256_file

_MICRO_BATCH = 64


def _network_input(images: Tensor, size: int) -> Tensor:
    """`[0, 1]` RGB to `[-1, 1]` greyscale `(N, 1, size, size)`."""
    return resize(images.float().mean(dim=1, keepdim=True), f"antialias-{size}") * 2 - 1


class ClassifierFeatures:
    """The 64 penultimate activations of an embedded digit classifier, which looks at 8 or at 16 px."""

    micro_batch, threads = _MICRO_BATCH, 1

    def __init__(self, name: str, device: str = "cpu") -> None:
        module = load_module(name)
        if not isinstance(module, DigitsClassifier):
            raise BadInputError(f"{name!r} is not a classifier")
        self.name = name
        self.weights_sha256: str | None = sha256_file(weights_path(name))
        self._module = module

    def __call__(self, images: Tensor) -> NDArray[np.float32]:
        """`(N, 64)`."""
        with torch_threads(1), torch.no_grad():
            inputs = _network_input(images, self._module.image_size)
            features = map_micro_batches(self._module.features, inputs, _MICRO_BATCH)
        return features.numpy()


class PixelPca:
    """The first 20 principal components of the training digits' pixels: a feature space no network shaped."""

    micro_batch, threads = _MICRO_BATCH, 1

    def __init__(self, name: str, device: str = "cpu") -> None:
        self.name = name
        self.weights_sha256: str | None = sha256_file(weights_path(name))
        mean, components = load_pca()
        self._mean, self._components = torch.from_numpy(mean).double(), torch.from_numpy(components).double()

    def __call__(self, images: Tensor) -> NDArray[np.float32]:
        """`(N, 20)`."""

        def project(rows: Tensor) -> Tensor:
            return (rows.flatten(1).double() - self._mean) @ self._components.T

        with torch_threads(1):
            return map_micro_batches(project, _network_input(images, IMAGE_SIZE), _MICRO_BATCH).float().numpy()
