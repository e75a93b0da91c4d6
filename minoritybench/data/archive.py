"""A zip of images, read in place: nothing is unpacked."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from minoritybench.data.folder import SUFFIXES
from minoritybench.data.source import ImageDecodeError, LoadedImage, SourceSpec, decode_rgb, is_lossy
from minoritybench.errors import BadInputError
from minoritybench.store import digest_of, sha256_bytes

MAX_IMAGE_BYTES = 1 << 28
"""Larger members are refused: a small archive can hold a member that fills memory."""


def refuse_escapes(archive: zipfile.ZipFile, where: str) -> None:
    """One line of error for an archive with a member whose path leads out of it. Nothing is unpacked here, but whoever
    made such an archive meant no images, and other programs would write where it says."""
    for name in archive.namelist():
        path = PurePosixPath(name.replace("\\", "/"))
        if ".." in path.parts or path.is_absolute() or (path.parts[:1] and path.parts[0].endswith(":")):
            raise BadInputError(f"{where}: member {name!r} leads out of the archive; nothing was read, pack it again")


class ZipSource:
    """Every member with an image suffix; the id is its name in the archive."""

    def __init__(self, spec: SourceSpec) -> None:
        if spec.root is None or not zipfile.is_zipfile(spec.root):
            raise BadInputError(f"{spec.root} is not a zip archive")
        self.spec = spec
        try:
            self._archive = zipfile.ZipFile(spec.root)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            raise BadInputError(f"{spec.root} cannot be read as a zip archive: {error}") from error
        refuse_escapes(self._archive, spec.root)
        self._lock = threading.Lock()
        if not self.ids:
            raise BadInputError(f"no images in {spec.root}: members ending in {', '.join(sorted(SUFFIXES))} are read")

    @cached_property
    def ids(self) -> Sequence[str]:
        """Member names in code-point order; hidden ones and resource forks are skipped."""
        names = []
        for name in self._archive.namelist():
            path = PurePosixPath(name)
            if path.suffix.lower() in SUFFIXES and not any(p.startswith((".", "__MACOSX")) for p in path.parts):
                names.append(name)
        return sorted(set(names))[: self.spec.limit]

    def load(self, index: int) -> LoadedImage:
        """Read and decode one member."""
        name = self.ids[index]
        try:
            if self._archive.getinfo(name).file_size > MAX_IMAGE_BYTES:
                raise ImageDecodeError(f"larger than {MAX_IMAGE_BYTES >> 20} MiB unpacked")
            with self._lock:
                data = self._archive.read(name)
        except (ImageDecodeError, MemoryError):
            raise
        except Exception as error:  # encrypted, cut or altered members: RuntimeError, zlib.error, EOFError, ...
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ImageDecodeError(f"cannot be read from the archive: {reason}") from error
        pixels, conversion = decode_rgb(data)
        return LoadedImage(pixels, sha256_bytes(data), len(data), conversion, is_lossy(data))

    def fingerprint(self) -> str:
        """Digest of the members' names, sizes and checksums, and of the archive's size."""
        members = [[i.filename, i.file_size, i.CRC] for i in self._archive.infolist()]
        return digest_of([members, Path(str(self.spec.root)).stat().st_size])
