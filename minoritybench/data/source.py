"""Ordered, id-stable image sources, described by plain data so that a worker process can reopen them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from minoritybench.errors import BadInputError, MinorityBenchError
from minoritybench.registry import entries, lookup, resolve


class ImageDecodeError(MinorityBenchError):
    """One image cannot be read: recorded as a failure of that image, never a crash."""

    exit_code = 5


@dataclass(frozen=True)
class LoadedImage:
    """A decoded image: `pixels` uint8 `(H, W, 3)` RGB, `sha256` of the stored content, its size in bytes, and how it
    was brought to 8-bit RGB (None if it was RGB already)."""

    pixels: NDArray[np.uint8]
    sha256: str
    file_bytes: int
    conversion: str | None = None


@dataclass(frozen=True)
class SourceSpec:
    """What a source is, as data: `name` a registered dataset or `folder`; `root` where its files lie."""

    name: str
    root: str | None = None
    split: str | None = None
    limit: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For plans and records; None fields left out."""
        return {key: value for key, value in asdict(self).items() if value is not None}


class ImageSource(Protocol):
    """Images in ascending order of id."""

    spec: SourceSpec

    @property
    def ids(self) -> Sequence[str]:
        """All ids, ascending, `limit` applied."""
        ...

    def load(self, index: int) -> LoadedImage:
        """Decode image `index`, or raise `ImageDecodeError` with one line of reason."""
        ...

    def fingerprint(self) -> str:
        """Changes whenever the listed content may have changed; cheap, so that a resume can check it."""
        ...


def open_source(spec: SourceSpec) -> ImageSource:
    """Open a source. Unknown name exits 2 with a suggestion, a known one whose files are absent exits 4."""
    if spec.limit is not None and spec.limit < 1:
        raise BadInputError(f"--limit must be at least 1, not {spec.limit}")
    if spec.name == "folder":
        from minoritybench.data.folder import FolderSource

        return FolderSource(spec)
    if spec.name == "zip":
        from minoritybench.data.archive import ZipSource

        return ZipSource(spec)
    source: ImageSource = resolve("datasets", spec.name)(spec)
    return source


def spec_from_argument(dataset: str, root: str | None, split: str | None, limit: int | None) -> SourceSpec:
    """The spec of a command-line DATASET: a registered name, else a folder of images."""
    if dataset in entries("datasets"):
        return SourceSpec(dataset, root, split, limit)
    path = Path(dataset)
    if path.is_dir():
        if root is not None or split is not None:
            raise BadInputError("--root and --split belong to named datasets; a folder has neither")
        return SourceSpec("folder", str(path.resolve()), None, limit)
    if path.suffix.lower() == ".zip" and path.is_file():
        return SourceSpec("zip", str(path.resolve()), None, limit)
    if path.exists():
        raise BadInputError(f"{dataset} is a file; DATASET is a registered name, a folder of images or a zip of them")
    if "/" in dataset or "\\" in dataset:
        raise BadInputError(f"no such folder: {dataset}")
    lookup("datasets", dataset)  # raises with a suggestion
    raise AssertionError("unreachable")


def decode_rgb(data: bytes) -> tuple[NDArray[np.uint8], str | None]:
    """Decode file bytes to upright 8-bit RGB and say what was converted.

    EXIF orientation is applied; greyscale, palette and CMYK go through Pillow's RGB conversion; transparency is laid
    on white; 16-bit and float greyscale are scaled by their full range. Errors: `ImageDecodeError`.
    """
    if not data:
        raise ImageDecodeError("empty file (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                said = _conversion(image)
                return _to_rgb(ImageOps.exif_transpose(image)), said
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombWarning) as error:
        reason = str(error).replace("\n", " ")
        if "cannot identify image file" in reason:
            reason = "not an image file that Pillow can identify"
        raise ImageDecodeError(reason) from error


def _conversion(image: Image.Image) -> str | None:
    frames = getattr(image, "n_frames", 1)
    first = f", first of {frames} frames" if frames > 1 else ""
    if "A" in image.mode or "transparency" in image.info:
        return f"{image.mode} on white -> RGB{first}"
    return f"{image.mode} -> RGB{first}" if image.mode != "RGB" or first else None


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        full = 255.0 if values.max(initial=0.0) <= 255.0 and image.mode != "I;16" else 65535.0
        grey = np.clip(np.round(values / full * 255.0), 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if "A" in image.mode or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.asarray(image.convert("RGB"), dtype=np.uint8)
