"""Aligned CelebA in torchvision's layout, cropped to 64 px as pixel diffusion models of it are trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from minoritybench.data.catalogue import mirror_folder, mirror_repo, require
from minoritybench.data.folder import read_image_file
from minoritybench.data.hub import HubSource
from minoritybench.data.source import LoadedImage, SourceSpec, decode_rgb
from minoritybench.errors import BadInputError
from minoritybench.store import digest_of, sha256_bytes

SPLITS = {"train": 0, "valid": 1, "test": 2}
SIZE = 64
IMAGES, PARTITION = "celeba/img_align_celeba", "celeba/list_eval_partition.txt"


def open_celeba(spec: SourceSpec) -> CelebaSource | CelebaMirror:
    """The original files where they are, else the hub's copy of them."""
    mirror = mirror_folder("celeba", spec.root)
    return CelebaSource(spec) if mirror is None else CelebaMirror(spec, mirror, mirror_repo("celeba"))


class CelebaSource:
    """`<root>/celeba/img_align_celeba/*.jpg`, split by `list_eval_partition.txt`; ids are file names.

    Each image is centre-cropped to 64 px by `centre_crop`. The papers do not state their crop; this is that of the
    ADM family's loaders. `sha256` is of the file as stored.
    """

    def __init__(self, spec: SourceSpec) -> None:
        self.root = require("celeba", spec.root)
        split = spec.split or "train"
        if split not in SPLITS:
            raise BadInputError(f"--split {split!r}: celeba has the splits {', '.join(SPLITS)}")
        self.spec = SourceSpec(spec.name, str(self.root), split, spec.limit)

    @cached_property
    def ids(self) -> Sequence[str]:
        """File names of the split, ascending."""
        wanted = str(SPLITS[self.spec.split or "train"])
        lines = (self.root / PARTITION).read_text("utf-8").splitlines()
        rows = [line.split() for line in lines if line.strip()]
        if any(len(row) != 2 for row in rows):
            raise BadInputError(f"{self.root / PARTITION}: every line should be a file name and a split number")
        return sorted(name for name, part in rows if part == wanted)[: self.spec.limit]

    def load(self, index: int) -> LoadedImage:
        """One face, 64 x 64."""
        data = read_image_file(self.root / IMAGES / self.ids[index])
        pixels, conversion = decode_rgb(data)
        return LoadedImage(centre_crop(pixels, SIZE), sha256_bytes(data), len(data), conversion)

    def fingerprint(self) -> str:
        """Digest of the partition file and the number of listed images."""
        partition = self.root / PARTITION
        stat = partition.stat()
        return digest_of([stat.st_size, stat.st_mtime_ns, len(self.ids)])


class CelebaMirror(HubSource):
    """The hub's copy: ids are `<split>/<row>` and digests those of its re-encoded images, so its reference sets are not
    those of the original files. Cropped like them."""

    def load(self, index: int) -> LoadedImage:
        """One face, 64 x 64."""
        image = super().load(index)
        return replace(image, pixels=centre_crop(image.pixels, SIZE))


def centre_crop(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """uint8 `(H, W, 3)` to `(size, size, 3)`: halved by box averages while the shorter side is at least twice `size`,
    then bicubic to `size` on the shorter side, then the centre.

    Reference: the `center_crop_arr` rule of the ADM image loaders. 178 x 218 goes through 89 x 109 and 64 x 78.
    """
    image = Image.fromarray(pixels)
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    array = np.asarray(image)
    top, left = (array.shape[0] - size) // 2, (array.shape[1] - size) // 2
    return array[top : top + size, left : left + size]
