"""The embedded digits as an image source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import numpy as np

from minoritybench.data.source import LoadedImage, SourceSpec
from minoritybench.embedded.data import load_split
from minoritybench.errors import BadInputError
from minoritybench.store import digest_of, sha256_bytes

SPLITS = ("train", "test")


class DigitsSource:
    """scikit-learn's 8x8 digits; `sha256` is of the 64 pixel bytes, since there is no file."""

    def __init__(self, spec: SourceSpec) -> None:
        split = spec.split or "train"
        if split not in SPLITS:
            raise BadInputError(f"--split {split!r}: digits has the splits {', '.join(SPLITS)}")
        if spec.root is not None:
            raise BadInputError("--root: digits is embedded in the package and has no root")
        self.spec = SourceSpec(spec.name, None, split, spec.limit)
        self._data = load_split(cast(Literal["train", "test"], split))

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
