"""A filed sheet.png is the plain picture that minoritybench draws, of the record's own samples."""

from __future__ import annotations

import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from forged_records import few, filed, forge_sheet, redraw
from numpy.typing import NDArray

from minoritybench import leaderboards
from minoritybench.records import load_benchmark, load_record
from minoritybench.report.pictures import Pixels
from minoritybench.sheet_checks import read_tiles, tile_faults
from minoritybench.sidecars import read_values, write_sidecars

SHIPPED = Path(__file__).parents[1] / "leaderboards" / "results"
SCRIPT = b"<script>alert(1)</script>"


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, data: bytes, colours: int = 2, more: bytes = b"") -> bytes:
    """Chunks with right checksums around compressed data."""
    header = struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def flat(byte: bytes = b"\0", height: int = 168) -> bytes:
    """Compressed rows of 270 px, each led by the byte that names its filter."""
    return zlib.compress((byte + b"\xff" * 810) * height)


def invert_tile(sheet: NDArray[np.uint8]) -> NDArray[np.uint8]:
    sheet[:32, :32] = 255 - sheet[:32, :32]
    return sheet


def swap_tiles(sheet: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The first two of a row."""
    sheet[:32, :66] = np.concatenate([sheet[:32, 34:66], sheet[:32, 32:34], sheet[:32, :32]], axis=1)
    return sheet


def mark(sheet: NDArray[np.uint8], row: int, column: int) -> NDArray[np.uint8]:
    sheet[row, column] ^= 64
    return sheet


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (forge_sheet(lambda data: data + SCRIPT), "has 25 bytes after its end"),
        (forge_sheet(lambda data: b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "is not a PNG file"),
        (forge_sheet(lambda data: data[:-6]), "a chunk that is cut off"),
        (forge_sheet(lambda data: data[:60] + b"!" + data[61:]), "differs from its checksum"),
        (forge_sheet(lambda data: data[:8] + data[33:]), "holds other chunks than IHDR, IDAT and IEND, or lacks one"),
        (forge_sheet(lambda data: png(270, 168, flat(), more=chunk(b"tEXt", SCRIPT))), "holds other chunks than"),
        (forge_sheet(lambda data: png(270, 168, flat(), colours=6)), "not plain RGB"),
        (forge_sheet(lambda data: png(20_000, 20_000, flat())), "is 20000 x 20000 px"),
        (forge_sheet(lambda data: png(270, 168, flat() + SCRIPT)), "has other data in it than its pixels"),
        (forge_sheet(lambda data: png(270, 168, flat(height=100_000))), "has other data in it than its pixels"),
        (forge_sheet(lambda data: png(270, 168, flat(height=167))), "has other data in it than its pixels"),
        (forge_sheet(lambda data: png(270, 168, SCRIPT)), "cannot be decompressed"),
        (forge_sheet(lambda data: png(270, 168, flat(b"\x09"))), "cannot be decoded"),
        (redraw(lambda sheet: sheet[:32]), "is 270 x 32 px or not plain RGB; that of this record is 270 x 168"),
        (redraw(lambda sheet: mark(sheet, 5, 33)), "is not a drawing of 36 tiles of 8 px"),  # between two tiles
        (redraw(lambda sheet: mark(sheet, 160, 200)), "is not a drawing of 36 tiles of 8 px"),  # where no tile is left
        (redraw(lambda sheet: mark(sheet, 5, 5)), "is not a drawing of 36 tiles of 8 px"),  # part of a pixel
        (redraw(swap_tiles), "shows other samples than the record's: their deflated scores by digits-jepa differ by"),
        (redraw(invert_tile), "shows other samples than the record's: their reference scores by digits-jepa differ by"),
    ],
)
def test_a_forged_sheet_is_found(boards: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    change(filed(boards))
    faults = leaderboards.check(boards / "results", boards)
    assert any("sidecar sheet.png" in fault and message in fault for fault in faults), faults


def test_the_sheet_of_another_row_is_found(tmp_path: Path) -> None:
    sgms = leaderboards.declared_record(load_benchmark("digits"), "sgms", SHIPPED)
    mg = leaderboards.declared_record(load_benchmark("digits"), "mg", SHIPPED)
    shutil.copytree(SHIPPED / leaderboards.record_place(sgms), tmp_path, dirs_exist_ok=True)
    stolen = (SHIPPED / leaderboards.record_place(mg) / "sheet.png").read_bytes()
    path = tmp_path / "record.json"
    assert leaderboards.record_faults(path) == []
    forge_sheet(lambda _: stolen)(path)
    assert all("sheet.png shows other samples than the record's" in fault for fault in leaderboards.record_faults(path))
    assert len(leaderboards.record_faults(path)) == 2


def test_another_compression_of_the_same_pixels_is_no_fault(boards: Path) -> None:
    """Digests of PNG files depend on the library that made them; the samples' own are not asked for."""

    def again(data: bytes) -> bytes:
        rows = zlib.decompress(data[41:-16])
        return png(270, 168, zlib.compress(rows, 1))

    path = filed(boards)
    before = (path.parent / "sheet.png").read_bytes()
    forge_sheet(again)(path)
    assert (path.parent / "sheet.png").read_bytes() != before
    assert leaderboards.record_faults(path) == []


@pytest.mark.parametrize(("size", "n", "edge"), [(8, 3, 8), (31, 9, 31), (32, 64, 32), (100, 70, 100), (256, 5, 128)])
def test_tiles_are_read_back_as_they_were_drawn(small: Path, tmp_path: Path, size: int, n: int, edge: int) -> None:
    """Pixel by pixel where samples are no larger than a tile may be."""
    record = load_record(small / "record.json")
    record = record.model_copy(update={"sampling": record.sampling.model_copy(update={"n": n, "seeds": [11]})})
    benchmark = few().model_copy(update={"image_size": size})
    generator = np.random.default_rng(1)
    images: list[Pixels] = [generator.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(n)]
    rows = [{"seed": 11, "index": index, "label": None, "sha256": ""} for index in range(n)]
    write_sidecars(tmp_path, images, rows, [], {})
    tiles = read_tiles(tmp_path / "sheet.png", record, benchmark)
    assert {tile.shape for tile in tiles} == {(edge, edge, 3)}
    assert len(tiles) == min(n, 64)
    if edge == size:
        assert all(np.array_equal(tile, image) for tile, image in zip(tiles, images, strict=False))


def test_scores_of_thumbnails_are_not_asked_for(small: Path) -> None:
    record, benchmark = load_record(small / "record.json"), few()
    values = read_values(record, benchmark, small / "per_image.parquet")
    other = [np.zeros((8, 8, 3), np.uint8)] * 36
    assert len(list(tile_faults(other, record, benchmark, values))) == 2
    assert list(tile_faults(other, record, benchmark.model_copy(update={"image_size": 256}), values)) == []
