"""A frozen network as an extractor: every image prepared alone, then fixed micro-batches, one pass for all outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minoritybench.errors import BadInputError
from minoritybench.microbatch import pad_rows


class NetworkExtractor:
    """`prepare` maps one image `(1, 3, H, W)` in `[0, 1]` to the network input, `forward` a batch of those to its
    outputs by name, `(B, D)` each; the first of `layers` is what a call gives."""

    threads: int | None = None

    def __init__(
        self,
        name: str,
        forward: Callable[[Tensor], Mapping[str, Tensor]],
        *,
        prepare: Callable[[Tensor], Tensor],
        preprocess: str,
        layers: Sequence[str],
        weights_sha256: str | None,
        device: str = "cpu",
    ) -> None:
        self.name, self.weights_sha256, self.preprocess = name, weights_sha256, preprocess
        self.layers = tuple(layers)
        self.micro_batch = 8 if torch.device(device).type == "cpu" else 64
        self._forward, self._prepare, self._device = forward, prepare, device

    def __call__(self, images: Tensor) -> NDArray[np.float32]:
        """Float `(N, 3, H, W)` in `[0, 1]` to the first output `(N, D)`."""
        return self.outputs(list(torch.split(images, 1)), [None])[None]

    def outputs(self, images: Sequence[Tensor], layers: Sequence[str | None]) -> dict[str | None, NDArray[np.float32]]:
        """Named outputs `(N, D)` of N images `(1, 3, H, W)` of any sizes; None stands for the first."""
        names = [self._named(layer) for layer in layers]
        rows: dict[str, list[Tensor]] = {name: [] for name in names}
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            for start in range(0, len(images), self.micro_batch):
                some = images[start : start + self.micro_batch]
                batch = torch.cat([self._prepare(image.to(self._device)) for image in some])
                found = self._forward(pad_rows(batch, self.micro_batch))
                for name in rows:
                    rows[name].append(found[name][: len(some)].flatten(1).float().cpu())
        return {layer: torch.cat(rows[name]).numpy() for layer, name in zip(layers, names, strict=True)}

    def _named(self, layer: str | None) -> str:
        if layer is not None and layer not in self.layers:
            raise BadInputError(f"{self.name} has the outputs {', '.join(self.layers)}, not {layer!r}")
        return layer or self.layers[0]
