"""A folder of images, searched in depth."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from minoritybench.data.source import ImageDecodeError, LoadedImage, SourceSpec, decode_rgb, escaped, is_lossy, is_utf8
from minoritybench.errors import BadInputError
from minoritybench.store import digest_of, sha256_bytes

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})

_log = logging.getLogger(__name__)


class FolderSource:
    """Every file below `spec.root` with an image suffix; the id is its path from there, with forward slashes.

    Links to files and folders are followed, but a folder is read once, however many links lead to it. A listed name
    that is no regular file (a pipe, a broken link) or no UTF-8 text fails as that image; the id of the latter
    shows its bytes as `\\xNN`.
    """

    def __init__(self, spec: SourceSpec) -> None:
        if spec.root is None:
            raise BadInputError("a folder source needs a root")
        self.spec = spec
        self.root = Path(spec.root)
        if not self.root.is_dir():
            raise BadInputError(f"no such folder: {self.root}")
        names = _unique_ids(sorted(_image_names(self.root)))
        self._ids = sorted(names)[: spec.limit]
        self._names = [names[id_] for id_ in self._ids]
        if not self.ids:
            raise BadInputError(f"no images in {self.root}: files ending in {', '.join(sorted(SUFFIXES))} are read")

    @property
    def ids(self) -> Sequence[str]:
        """Relative paths in code-point order; hidden files and folders are skipped."""
        return self._ids

    def load(self, index: int) -> LoadedImage:
        """Read and decode one file."""
        if not is_utf8(self._names[index]):
            raise ImageDecodeError("its file name is not UTF-8 text; rename it")
        data = read_image_file(self.root / self._names[index])
        pixels, conversion = decode_rgb(data)
        return LoadedImage(pixels, sha256_bytes(data), len(data), conversion, is_lossy(data))

    def fingerprint(self) -> str:
        """Digest of names, sizes and modification times, of the files that links lead to."""
        listing = []
        for id_, name in zip(self._ids, self._names, strict=True):
            try:
                facts = (self.root / name).stat()
            except OSError:  # a broken link, or the file is gone since it was listed
                facts = (self.root / name).lstat()
            listing.append([id_, facts.st_size, facts.st_mtime_ns])
        return digest_of(listing)


def read_image_file(path: Path) -> bytes:
    """The bytes of a regular file. Anything else, such as a pipe, is an `ImageDecodeError`: it is never waited for."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as handle:
            if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
                raise ImageDecodeError("not a regular file")
            return handle.read()
    except OSError as error:
        raise ImageDecodeError(f"cannot be read: {error.strerror}") from error


def _image_names(root: Path) -> Iterator[str]:
    """Names below a folder, relative to it. Every folder is listed once, by its own path before any link to it."""
    seen: set[tuple[int, int]] = set()
    waiting = [(root, "")]
    while waiting:
        links: list[tuple[Path, str]] = []
        for folder, prefix in waiting:
            yield from _below(folder, prefix, seen, links)
        waiting = sorted(links, key=lambda link: link[1])


def _below(folder: Path, prefix: str, seen: set[tuple[int, int]], links: list[tuple[Path, str]]) -> Iterator[str]:
    """Names below a folder without following `links`, to which those met are added, to folders not in `seen` yet."""
    try:
        here = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        _log.warning("%s is left out: %s", escaped(str(folder)), error.strerror)
        return
    if (here.st_dev, here.st_ino) in seen:
        return
    seen.add((here.st_dev, here.st_ino))
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            below = (folder / entry.name, f"{prefix}{entry.name}/")
            if entry.is_symlink():
                links.append(below)
            else:
                yield from _below(*below, seen, links)
        elif Path(entry.name).suffix.lower() in SUFFIXES:
            yield prefix + entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or leads to one; not so for anything else, broken links among them."""
    try:
        return entry.is_dir()  # known from the listing: a million files need no call each
    except OSError:
        return False


def _unique_ids(names: list[str]) -> dict[str, str]:
    """Id to name: the name itself where it is text, else its escaped form, told apart from a file really called so."""
    found = {name: name for name in names if is_utf8(name)}
    for name in names:
        if not is_utf8(name):
            id_ = escaped(name)
            while id_ in found:
                id_ += "~"
            found[id_] = name
    return found
