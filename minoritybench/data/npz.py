"""Images in an .npz, as ADM's samplers write them: `arr_0`, uint8 `(N, H, W, 3)`. Read in place, row by row."""

from __future__ import annotations

import math
import threading
import zipfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from minoritybench.data.archive import refuse_escapes
from minoritybench.data.source import ImageDecodeError, LoadedImage, SourceSpec
from minoritybench.errors import BadInputError
from minoritybench.store import digest_of, sha256_bytes

MEMBER = "arr_0.npy"
_DIGITS = 6


class NpzSource:
    """Every row of `arr_0`; the id is its number. Nothing is unpickled: an array of objects is refused."""

    def __init__(self, spec: SourceSpec) -> None:
        if spec.root is None or not zipfile.is_zipfile(spec.root):
            raise BadInputError(f"{spec.root} is not an .npz archive")
        self.spec = spec
        try:
            self._archive = zipfile.ZipFile(spec.root)
            refuse_escapes(self._archive, spec.root)
            self._member = self._archive.getinfo(MEMBER)
            with self._archive.open(self._member) as handle:
                self._shape, self._start = _header(handle, str(spec.root))
        except KeyError as error:
            names = ", ".join(self._archive.namelist()[:3]) or "nothing"
            raise BadInputError(f"{spec.root} holds {names}; samples are expected in {MEMBER}") from error
        except BadInputError:
            raise
        except Exception as error:  # damaged archives and headers: BadZipFile, zlib.error, ValueError, EOFError, ...
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BadInputError(f"{spec.root} cannot be read as an .npz archive: {reason}") from error
        if self._member.file_size != self._start + math.prod(self._shape):
            raise BadInputError(f"{spec.root}: {MEMBER} is cut or padded: its size is not that of {self._shape} uint8")
        self._lock = threading.Lock()
        self._open: IO[bytes] | None = None

    @cached_property
    def ids(self) -> Sequence[str]:
        """Row numbers, six digits or more, ascending."""
        return [f"{row:0{_DIGITS}d}" for row in range(self._shape[0])[: self.spec.limit]]

    def load(self, index: int) -> LoadedImage:
        """One row; `sha256` is of its bytes."""
        size = math.prod(self._shape[1:])
        try:
            with self._lock:
                handle = self._open = self._open or self._archive.open(self._member)
                handle.seek(self._start + index * size)
                data = handle.read(size)
        except Exception as error:  # a damaged member: BadZipFile, zlib.error, EOFError, ...
            raise ImageDecodeError(f"cannot be read from the archive: {error}") from error
        pixels = np.frombuffer(data, dtype=np.uint8).reshape(self._shape[1:])
        return LoadedImage(pixels, sha256_bytes(data), len(data))

    def fingerprint(self) -> str:
        """Digest of shape and checksum, and of the archive's size."""
        return digest_of([list(self._shape), self._member.CRC, Path(str(self.spec.root)).stat().st_size])


def _header(handle: IO[bytes], where: str) -> tuple[tuple[int, ...], int]:
    """Shape of the array and where its first byte stands."""
    major, _ = np.lib.format.read_magic(handle)
    read: Any = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(handle)
    if dtype.hasobject:
        raise BadInputError(f"{where}: arr_0 holds Python objects, which are never unpickled; save it as uint8")
    if dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or fortran or 0 in shape:
        raise BadInputError(
            f"{where}: arr_0 is {dtype} {shape}{', Fortran order' if fortran else ''}; uint8 (N, H, W, 3) is needed"
        )
    return shape, handle.tell()
