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
    """A decoded image: `pixels` uint8 `(H, W, 3)` RGB, `sha256` of the stored content, its size in bytes, how it was
    brought to 8-bit RGB (None if it was RGB already), and whether it was compressed with loss (JPEG, most WebP)."""

    pixels: NDArray[np.uint8]
    sha256: str
    file_bytes: int
    conversion: str | None = None
    lossy: bool = False


@dataclass(frozen=True)
class SourceSpec:
    """What a source is, as data: `name` a registered dataset or `folder`; `root` where its files lie."""

    name: str
    root: str | None = None
    split: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.root is not None and not is_utf8(self.root):
            raise BadInputError(f"{escaped(self.root)}: the path is not UTF-8 text; rename it or link to it")

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
    if spec.name == "npz":
        from minoritybench.data.npz import NpzSource

        return NpzSource(spec)
    source: ImageSource = resolve("datasets", spec.name)(spec)
    return source


def spec_from_argument(dataset: str, root: str | None, split: str | None, limit: int | None) -> SourceSpec:
    """The spec of a command-line DATASET: a registered name, `hf:repo[:config]`, else a folder or zip of images."""
    if dataset in entries("datasets") or dataset.startswith("hf:"):
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


def is_utf8(name: str) -> bool:
    """Whether a file name is text; one of other bytes comes from the system with surrogates in it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def escaped(name: str) -> str:
    """A file name as text that can be written anywhere: each byte that is not UTF-8 becomes `\\xNN`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_lossy(data: bytes) -> bool:
    """Whether file bytes are an image compressed with loss, by their signature, whatever the file is called."""
    return data.startswith(b"\xff\xd8\xff") or (data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8 ")


def decode_rgb(data: bytes) -> tuple[NDArray[np.uint8], str | None]:
    """Decode file bytes to upright 8-bit RGB and say what was converted.

    EXIF orientation is applied; greyscale, palette and CMYK go through Pillow's RGB conversion; transparency is laid
    on white. 16-bit greyscale is scaled from `[0, 65535]` (12-bit from `[0, 4095]`) and float from `[0, 1]`, never by
    what one image happens to hold; greyscale of any other range is refused. Errors: `ImageDecodeError`, one line.
    """
    if not data:
        raise ImageDecodeError("empty file (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                raw = _raw_mode(image)
                full = _full_scale(image, raw) if image.mode[0] in "IF" else 255.0
                said = _conversion(image, raw, full)
                return _to_rgb(ImageOps.exif_transpose(image), full), said
    except (ImageDecodeError, MemoryError):
        raise
    except Exception as error:  # hostile bytes lead codecs to struct.error, KeyError, zlib.error and more
        reason = " ".join(str(error).split()) or type(error).__name__
        if "cannot identify image file" in reason:
            reason = "not an image file that Pillow can identify"
        raise ImageDecodeError(reason) from error


_WITH_ALPHA = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})


def _raw_mode(image: Image.Image) -> str:
    """How the file packs its samples, in Pillow's words (`I;16B`); forgotten once the pixels are loaded."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _conversion(image: Image.Image, raw: str, full: float) -> str | None:
    frames = getattr(image, "n_frames", 1)
    first = f", first of {frames} frames" if frames > 1 else ""
    stored = raw if image.mode == "RGB" and ";16" in raw else image.mode
    if image.mode[0] in "IF":
        stored += f" from 0..{full:g}"
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        return f"{stored} on white -> RGB{first}"
    return f"{stored} -> RGB{first}" if stored != "RGB" or first else None


def _full_scale(image: Image.Image, raw: str) -> float:
    """The value that is white in a file of more than 8 bits a grey sample: a fact of its format, not of its content."""
    if image.mode == "F":
        return 1.0
    if raw == "I;12":
        return 4095.0
    sixteen = image.mode.startswith("I;16") or image.format in ("PNG", "PPM") or raw in ("I;16", "I;16B", "I;16L")
    if not sixteen:
        raise ImageDecodeError(f"greyscale stored as {raw or image.mode} has no known white; save it as 16-bit PNG")
    return 65535.0


def _to_rgb(image: Image.Image, full: float) -> NDArray[np.uint8]:
    if image.mode[0] in "IF":
        return np.repeat(_grey(image, full)[:, :, None], 3, axis=2)
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.asarray(image.convert("RGB"), dtype=np.uint8)


def _grey(image: Image.Image, full: float) -> NDArray[np.uint8]:
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise ImageDecodeError("greyscale with NaN or infinite values")
    low, high = values.min(initial=0), values.max(initial=0)
    if low < 0 or high > full:
        raise ImageDecodeError(
            f"greyscale values from {low:g} to {high:g} lie outside 0..{full:g}; rescale them or save as 8-bit PNG"
        )
    grey = np.round(values.astype(np.float32) * np.float32(255.0 / full)).astype(np.uint8)
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey[values == key] = 255
    return grey
