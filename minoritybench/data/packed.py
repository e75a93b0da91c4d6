"""CIFAR and MNIST in the packed formats that torchvision reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minoritybench.data.catalogue import require
from minoritybench.data.source import LoadedImage, SourceSpec
from minoritybench.errors import BadInputError
from minoritybench.store import digest_of, sha256_bytes

SPLITS = ("train", "test")


@dataclass(frozen=True)
class _Reader:
    dataset: str  # torchvision class


_READERS = {
    "cifar10": _Reader("CIFAR10"),
    "cifar100": _Reader("CIFAR100"),
    "mnist": _Reader("MNIST"),
    "fashion-mnist": _Reader("FashionMNIST"),
}


class PackedSource:
    """Ids are `<class>/<split>-<number>`, so that `--per-class` works; `sha256` is of the pixel bytes."""

    def __init__(self, spec: SourceSpec) -> None:
        split = spec.split or "train"
        if split not in SPLITS:
            raise BadInputError(f"--split {split!r}: {spec.name} has the splits {', '.join(SPLITS)}")
        root = require(spec.name, spec.root)
        self.spec = SourceSpec(spec.name, str(root), split, spec.limit)
        self._images, labels = _read(_READERS[spec.name].dataset, str(root), split == "train", spec.name)
        named = [f"{label}/{split}-{number:05d}" for number, label in enumerate(labels)]
        self._order = sorted(range(len(named)), key=named.__getitem__)[: spec.limit]
        self._ids = [named[position] for position in self._order]

    @property
    def ids(self) -> Sequence[str]:
        """Ascending."""
        return self._ids

    def load(self, index: int) -> LoadedImage:
        """One image as RGB."""
        pixels = self._images[self._order[index]]
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[:, :, None], 3, axis=2)
        data = pixels.tobytes()
        return LoadedImage(pixels, sha256_bytes(data), len(data))

    def fingerprint(self) -> str:
        """Digest of all pixels."""
        return digest_of([sha256_bytes(self._images.tobytes()), self.spec.limit])


def _read(dataset: str, root: str, train: bool, name: str) -> tuple[NDArray[np.uint8], list[int]]:
    from torchvision import datasets

    try:
        opened: Any = getattr(datasets, dataset)(root, train=train, download=False)
    except Exception as error:  # cut files fail in torchvision's parsers in many ways
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInputError(f"{name} in {root} is incomplete or altered: {reason}") from error
    images = np.asarray(opened.data, dtype=np.uint8)
    return images, [int(label) for label in opened.targets]
