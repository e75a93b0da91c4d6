"""A folder of images, searched in depth."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from minoritybench.data.source import ImageDecodeError, LoadedImage, SourceSpec, decode_rgb
from minoritybench.errors import BadInputError
from minoritybench.store import digest_of, sha256_bytes

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})


class FolderSource:
    """Every file below `spec.root` with an image suffix; the id is its path from there, with forward slashes."""

    def __init__(self, spec: SourceSpec) -> None:
        if spec.root is None:
            raise BadInputError("a folder source needs a root")
        self.spec = spec
        self.root = Path(spec.root)
        if not self.root.is_dir():
            raise BadInputError(f"no such folder: {self.root}")
        if not self.ids:
            raise BadInputError(f"no images in {self.root}: files ending in {', '.join(sorted(SUFFIXES))} are read")

    @cached_property
    def ids(self) -> Sequence[str]:
        """Relative paths in code-point order; hidden files and folders are skipped."""
        found = (path.relative_to(self.root) for path in self.root.rglob("*") if path.suffix.lower() in SUFFIXES)
        names = sorted(p.as_posix() for p in found if not any(part.startswith(".") for part in p.parts))
        return names[: self.spec.limit]

    def load(self, index: int) -> LoadedImage:
        """Read and decode one file."""
        path = self.root / self.ids[index]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ImageDecodeError(f"cannot be read: {error.strerror}") from error
        pixels, conversion = decode_rgb(data)
        return LoadedImage(pixels, sha256_bytes(data), len(data), conversion)

    def fingerprint(self) -> str:
        """Digest of names, sizes and modification times."""
        listing = []
        for name in self.ids:
            stat = (self.root / name).lstat()
            listing.append([name, stat.st_size, stat.st_mtime_ns])
        return digest_of(listing)
