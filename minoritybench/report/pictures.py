"""Images as PNG bytes, data URIs and contact sheets."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def png_bytes(pixels: Pixels) -> bytes:
    """uint8 `(H, W, 3)` or `(H, W)` as PNG, no metadata: the same pixels give the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def enlarged(pixels: Pixels, shortest: int) -> Pixels:
    """Repeat pixels so that the shorter side has at least `shortest`; larger images are left alone."""
    factor = max(1, -(-shortest // min(pixels.shape[:2])))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def thumbnail(pixels: Pixels, size: int) -> Pixels:
    """Shrink to fit `size` x `size`, keeping the aspect ratio; smaller images are left alone."""
    image = Image.fromarray(pixels)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image)


def bitmap_uri(pixels: Pixels) -> str:
    """A BMP as a `data:` URI: larger than a PNG, and the same bytes whatever compression library is installed."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="BMP")
    return "data:image/bmp;base64," + base64.b64encode(buffer.getvalue()).decode()


def data_uri(pixels: Pixels) -> str:
    """A PNG as a `data:` URI."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(pixels)).decode()


def contact_sheet(images: Sequence[Pixels], columns: int, *, tile: int, gap: int = 2, background: int = 255) -> Pixels:
    """Equal-sized `(h, w, 3)` images in rows of `columns`, each enlarged to at least `tile` pixels."""
    tiles = [enlarged(image, tile) for image in images]
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), background, dtype=np.uint8)
    for position, image in enumerate(tiles):
        top, left = divmod(position, columns)
        top, left = top * (height + gap), left * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet
