"""What can be wrong with a filed sheet.png: it must be the plain picture that minoritybench draws, of this record's
samples."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from minoritybench.data.source import LoadedImage
from minoritybench.embedded.weights import shipped_digest
from minoritybench.encoders import load_encoder
from minoritybench.encoders.base import Encoder
from minoritybench.errors import BadInputError
from minoritybench.measure_shard import score_key
from minoritybench.measures import Arrays
from minoritybench.rank_shard import prepare_images
from minoritybench.records import BenchmarkSpec, RunRecord
from minoritybench.report.pictures import Pixels, contact_sheet, enlarged
from minoritybench.scoring import exact_scores
from minoritybench.sidecars import SHEET_COLUMNS, SHEET_FILE, SHEET_IMAGES, SHEET_LARGEST, SHEET_TILE

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">IIBBBBB")
_PLAIN_RGB = (8, 2, 0, 0, 0)  # bits, colours, compression, filter, interlacing: the only kind that we write


def read_tiles(path: Path, record: RunRecord, benchmark: BenchmarkSpec) -> list[Pixels]:
    """The tiles of a sheet, uint8 `(h, w, 3)`: the first samples themselves where they are no larger
    than a tile may be, else their thumbnails.

    Nothing is decompressed beyond the size that the sheet must have. Errors: a file that is not PNG as minoritybench
    writes it and nothing else, or not the drawing of such tiles (exit 2).
    """
    images = record.sampling.n * len(record.sampling.seeds)
    number, edge = max(1, min(SHEET_IMAGES, images)), min(benchmark.image_size, SHEET_LARGEST)
    blank = [np.zeros((edge, edge, 3), np.uint8)] * number
    height, width = contact_sheet(blank, SHEET_COLUMNS, tile=SHEET_TILE).shape[:2]
    data = path.read_bytes()
    _check_png(data, height, width)
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.verify()
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            sheet = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise _fault(f"cannot be decoded: {error}") from error
    tiles = _cut(sheet, number, edge)
    if not np.array_equal(contact_sheet(tiles, SHEET_COLUMNS, tile=SHEET_TILE), sheet):
        raise _fault(f"is not a drawing of {number} tiles of {edge} px on white, {SHEET_COLUMNS} in a row")
    return tiles


def tile_faults(
    tiles: Sequence[Pixels], record: RunRecord, benchmark: BenchmarkSpec, values: Mapping[str, Arrays]
) -> Iterator[str]:
    """Says so where the samples on a sheet do not have the scores that the per-image values, by seed, give them.

    Digests of the samples' files would depend on the compression library of the machine; scores by the guide, measured
    again from the pixels, do not. It is left out where tiles are thumbnails or the guide is not part of the package.
    """
    guide = record.encoder.guide
    if benchmark.image_size > SHEET_LARGEST or shipped_digest(guide) is None:
        return
    encoder = _encoder(guide)
    images = [LoadedImage(tile, "", 0, None, False) for tile in tiles]
    scores = exact_scores(encoder, prepare_images(encoder, images))
    for mode, measured in (("reference", scores.reference), ("deflated", scores.deflated)):
        told = np.concatenate([arrays[score_key(guide, mode)] for arrays in values.values()])
        off = float(np.abs(measured.numpy() - told[: len(tiles)]).max())
        if not off <= benchmark.tolerance.score_nats:
            yield (
                f"sidecar {SHEET_FILE} shows other samples than the record's: their {mode} scores by {guide} differ by"
                f" up to {off:.3g} nats from the per-image ones"
            )


@lru_cache
def _encoder(name: str) -> Encoder:
    return load_encoder(name)


def _fault(what: str) -> BadInputError:
    return BadInputError(f"sidecar {SHEET_FILE} {what}")


def _check_png(data: bytes, height: int, width: int) -> None:
    """One header, compressed pixels of just that size, the end, and no other byte."""
    kinds: list[bytes] = []
    compressed, position = b"", len(_SIGNATURE)
    if not data.startswith(_SIGNATURE):
        raise _fault("is not a PNG file")
    while position < len(data) and (not kinds or kinds[-1] != b"IEND"):
        length = int.from_bytes(data[position : position + 4], "big")
        kind, body = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        if data[position + 8 + length : position + 12 + length] != zlib.crc32(kind + body).to_bytes(4, "big"):
            raise _fault("has a chunk that is cut off or differs from its checksum")
        kinds.append(kind)
        if kind == b"IHDR" and body != _HEADER.pack(width, height, *_PLAIN_RGB):
            size = " x ".join(map(str, struct.unpack(">II", body[:8]))) if length == _HEADER.size else "?"
            raise _fault(f"is {size} px or not plain RGB; that of this record is {width} x {height} in 8 bits")
        compressed += body if kind == b"IDAT" else b""
        position += 12 + length
    if kinds != [b"IHDR", *[b"IDAT"] * (len(kinds) - 2), b"IEND"]:
        raise _fault("holds other chunks than IHDR, IDAT and IEND, or lacks one")
    if position != len(data):
        raise _fault(f"has {len(data) - position:,} bytes after its end")
    expected = height * (1 + 3 * width)
    inflate = zlib.decompressobj()
    try:
        pixels = inflate.decompress(compressed, expected + 1)
    except zlib.error as error:
        raise _fault(f"cannot be decompressed: {error}") from error
    if len(pixels) != expected or not inflate.eof or inflate.unused_data:
        raise _fault("has other data in it than its pixels")


def _cut(sheet: Pixels, number: int, edge: int) -> list[Pixels]:
    """The tiles of a sheet as they were before they were enlarged and laid out, by the positions of their corners in a
    sheet that is drawn of them."""
    factor = len(enlarged(np.zeros((edge, edge, 3), np.uint8), SHEET_TILE)) // edge
    pitch = (sheet.shape[1] - edge * factor) // (SHEET_COLUMNS - 1)
    corners = [divmod(position, SHEET_COLUMNS) for position in range(number)]
    ends = edge * factor
    return [
        sheet[row * pitch : row * pitch + ends : factor, column * pitch : column * pitch + ends : factor]
        for row, column in corners
    ]
