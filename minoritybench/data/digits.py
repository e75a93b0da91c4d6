"""The embedded digits as image sources: 8x8 as they are, and 16x16."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import numpy as np

from minoritybench.data.source import LoadedImage, SourceSpec
from minoritybench.embedded.data import DigitsSplit, load_doubled_split, load_split
from minoritybench.errors import BadInputError
from minoritybench.store import digest_of, sha256_bytes

SPLITS = ("train", "test")


class DigitsSource:
    """scikit-learn's 8x8 digits; `sha256` is of the 64 pixel bytes, since there is no file."""

    def __init__(self, spec: SourceSpec) -> None:
        split = spec.split or "train"
        if split not in SPLITS:
            raise BadInputError(f"--split {split!r}: {spec.name} has the splits {', '.join(SPLITS)}")
        if spec.root is not None:
            raise BadInputError(f"--root: {spec.name} is embedded in the package and has no root")
        self.spec = SourceSpec(spec.name, None, split, spec.limit)
        self._data = self._read(cast(Literal["train", "test"], split))

    @staticmethod
    def _read(split: Literal["train", "test"]) -> DigitsSplit:
        return load_split(split)

    @property
    def ids(self) -> Sequence[str]:
        """`digits-0042` is image 42 of `load_digits`."""
        return self._data.ids[: self.spec.limit]

    @property
    def labels(self) -> Sequence[int]:
        """The digit that each image shows."""
        return self._data.labels[: self.spec.limit].tolist()

    def load(self, index: int) -> LoadedImage:
        """One digit as RGB."""
        grey = self._data.images[index]
        return LoadedImage(np.repeat(grey[:, :, None], 3, axis=2), sha256_bytes(grey.tobytes()), grey.nbytes)

    def fingerprint(self) -> str:
        """Digest of the pixels."""
        return digest_of(sha256_bytes(self._data.images.tobytes()))


class DoubledDigitsSource(DigitsSource):
    """The same digits, ids and splits at 16x16 (`digits16`); `sha256` is of the 256 pixel bytes."""

    @staticmethod
    def _read(split: Literal["train", "test"]) -> DigitsSplit:
        return load_doubled_split(split)
