"""Grey 8x8 patches of the two photographs that come with scikit-learn: real images, offline, and no digits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from minoritybench.data.source import LoadedImage, SourceSpec
from minoritybench.errors import BadInputError
from minoritybench.store import sha256_bytes

SIDE = 8
_SCALES = (2, 4)


class PatchSource:
    """Every patch of a grid over `china.jpg` and `flower.jpg`, greyscale, box-averaged 2 and 4 times down: 2,600 of
    them, named by photograph, scale, row and column."""

    def __init__(self, spec: SourceSpec) -> None:
        if spec.root is not None or spec.split not in (None, "train"):
            raise BadInputError("natural-patches comes with scikit-learn: it has no --root and one split")
        self.spec = SourceSpec(spec.name, None, None, spec.limit)
        self._patches = _patches()
        self._ids = tuple(sorted(self._patches))[: spec.limit]

    @property
    def ids(self) -> Sequence[str]:
        """`china-4-03-17`: row 3, column 17 of the photograph reduced 4 times."""
        return self._ids

    def load(self, index: int) -> LoadedImage:
        """One patch as RGB."""
        grey = self._patches[self._ids[index]]
        return LoadedImage(np.repeat(grey[:, :, None], 3, axis=2), sha256_bytes(grey.tobytes()), grey.nbytes)

    def fingerprint(self) -> str:
        """Digest of the pixels."""
        return sha256_bytes(b"".join(self._patches[id_].tobytes() for id_ in self._ids))


@lru_cache(maxsize=1)
def _patches() -> dict[str, NDArray[np.uint8]]:
    from sklearn.datasets import load_sample_images  # slow import, needed only here

    bunch = load_sample_images()
    found = {}
    for file, photograph in zip(bunch.filenames, bunch.images, strict=True):
        name = str(file).replace("\\", "/").rpartition("/")[2].partition(".")[0]
        luma = photograph.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
        for scale in _SCALES:
            for row, column, patch in _grid(luma, scale):
                found[f"{name}-{scale}-{row:02d}-{column:02d}"] = patch
    return found


def _grid(luma: NDArray[np.float64], scale: int) -> list[tuple[int, int, NDArray[np.uint8]]]:
    rows, columns = (length // (scale * SIDE) for length in luma.shape)
    whole = luma[: rows * scale * SIDE, : columns * scale * SIDE]
    reduced = whole.reshape(rows * SIDE, scale, columns * SIDE, scale).mean(axis=(1, 3))
    pixels = np.round(reduced).astype(np.uint8).reshape(rows, SIDE, columns, SIDE).transpose(0, 2, 1, 3)
    return [(r, c, np.ascontiguousarray(pixels[r, c])) for r in range(rows) for c in range(columns)]
