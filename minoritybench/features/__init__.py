"""Feature extractors: images to the vectors that distances are measured on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minoritybench.embedded.weights import shipped_digest
from minoritybench.errors import BadInputError
from minoritybench.features.network import NetworkExtractor
from minoritybench.registry import resolve, user_code

Features = NDArray[np.float32]
_MICRO_BATCH = 64


class Extractor(Protocol):
    """`name` and `weights_sha256` belong to the metrics that use it.

    Optional: `preprocess: str`, a resize preset; `micro_batch: int` and `threads: int | None`, the fixed rows a network
    call and the torch threads that its values belong to.
    """

    name: str
    weights_sha256: str | None

    def __call__(self, images: Tensor) -> Features:
        """Float `(N, 3, H, W)` in `[0, 1]` to features `(N, D)`; row i depends on image i alone."""
        ...


@dataclass(frozen=True)
class Space:
    """The features of an extractor or, of one with several outputs, those of a `layer`."""

    extractor: str
    layer: str | None = None

    @property
    def key(self) -> str:
        """Where these features stand in a measurement file."""
        return f"features/{self.extractor}" + (f"#{self.layer}" if self.layer else "")


class ExtractorEncoder:
    """An extractor where an encoder is asked for, for its values only: preparing describes, calling changes nothing,
    and there is no Jacobian. Each image is described alone, whatever its size."""

    micro_batch = _MICRO_BATCH

    def __init__(self, extractor: Extractor) -> None:
        self.name, self.weights_sha256 = extractor.name, extractor.weights_sha256
        self._extractor = extractor

    def prepare(self, images: Tensor) -> Tensor:
        """Float `(B, 3, H, W)` in `[0, 1]` to features `(B, D)`."""
        return torch.from_numpy(self._extractor(images))

    def __call__(self, prepared: Tensor) -> Tensor:
        """The features themselves."""
        return prepared


def load_extractor(name: str, device: str = "cpu") -> Extractor:
    """A registered extractor, or `path/to/file.py:factory`, called with the name and, off the CPU, the device.

    Errors: unknown name exits 2; absent weights exit 4 with file, size, source and place.
    """
    factory = resolve("features", name)
    with user_code(name):
        extractor: Extractor = factory(name, **({} if device == "cpu" else {"device": device}))
    return extractor


def extractor_facts(extractor: Extractor) -> dict[str, Any]:
    """What features depend on beside the images: weights, preprocessing, precision, rows and threads a call."""
    return {
        "weights_sha256": extractor.weights_sha256,
        "preprocess": getattr(extractor, "preprocess", None),
        "dtype": "float32",
        "micro_batch": getattr(extractor, "micro_batch", None),
        "threads": getattr(extractor, "threads", None),
    }


def metric_facts(extractor: Extractor) -> dict[str, Any]:
    """What of an extractor belongs to the parameters of a metric; one without a preset has its own way of old."""
    facts = extractor_facts(extractor)
    shown = ("weights_sha256",) if facts["preprocess"] is None else ("weights_sha256", "preprocess")
    return {name: facts[name] for name in shown}


def known_facts(name: str) -> dict[str, Any]:
    """`metric_facts` as far as they are known without opening the extractor: None for what only its weights tell."""
    digest = shipped_digest(name)
    return {"weights_sha256": None, "preprocess": None} if digest is None else {"weights_sha256": digest}


def describe(extractor: Extractor, images: Sequence[Tensor], spaces: Iterable[Space]) -> dict[str, Features]:
    """Features `(N, D)` of each space of one extractor, by its key; images are float `(1, 3, H, W)` in `[0, 1]`."""
    wanted = list(spaces)
    if isinstance(extractor, NetworkExtractor):
        layers = extractor.outputs(images, [space.layer for space in wanted])
        return {space.key: layers[space.layer] for space in wanted}
    for space in wanted:
        if space.layer is not None:
            raise BadInputError(f"features {space.extractor!r} have one output, not a layer {space.layer!r}")
    if len({image.shape for image in images}) == 1:
        found = extractor(torch.cat(list(images)))
    else:
        found = np.concatenate([extractor(image) for image in images])
    return {space.key: found for space in wanted}
