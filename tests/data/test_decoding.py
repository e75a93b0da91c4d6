"""Decoding: grey of more than 8 bits by the scale of its format, and no file that ends in a traceback."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minoritybench.data import source as source_module
from minoritybench.data.archive import ZipSource
from minoritybench.data.source import ImageDecodeError, SourceSpec, decode_rgb


def encoded(image: Image.Image, fmt: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=fmt, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "PPM"])
def test_dark_sixteen_bit_grey_stays_dark(fmt: str) -> None:
    """v / 257 is the level of a 16-bit value, whatever the image's own maximum is."""
    values = np.array([[0, 257, 257 * 40]], np.uint16)
    pixels, said = decode_rgb(encoded(Image.fromarray(values), fmt))
    assert pixels[0, :, 1].tolist() == [0, 1, 40]
    assert said is not None
    assert "from 0..65535" in said


def test_every_sixteen_bit_value_is_rounded_to_the_nearest_level() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    pixels, _ = decode_rgb(encoded(Image.fromarray(values), "PNG"))
    assert (pixels[..., 0] == (values.astype(np.int64) * 255 + 32767) // 65535).all()


def test_sixteen_bit_transparent_key_is_white() -> None:
    values = np.array([[5, 6]], np.uint16)
    pixels, said = decode_rgb(encoded(Image.fromarray(values), "PNG", transparency=5))
    assert pixels[0, :, 0].tolist() == [255, 0]
    assert said == "I;16 from 0..65535 on white -> RGB"


def test_sixteen_bit_colour_is_named_as_converted() -> None:
    """Pillow cannot write 16-bit colour, so the file is laid out by hand."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = b"\0" + struct.pack(">6H", 65535, 0, 257 * 7, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    data += chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    pixels, said = decode_rgb(data)
    assert pixels[0, 0].tolist() == [255, 0, 7]
    assert said == "RGB;16B -> RGB"


def test_float_grey_is_scaled_from_the_unit_range() -> None:
    pixels, said = decode_rgb(encoded(Image.fromarray(np.array([[0.0, 0.2, 0.6]], np.float32)), "TIFF"))
    assert pixels[0, :, 2].tolist() == [0, 51, 153]
    assert said == "F from 0..1 -> RGB"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0, 200]], np.int32), "no known white"),
        (np.array([[0, 70000]], np.int32), "no known white"),
        (np.array([[0.0, 1.5]], np.float32), "outside 0..1"),
        (np.array([[-0.1, 1.0]], np.float32), "outside 0..1"),
        (np.array([[0.0, np.nan]], np.float32), "NaN or infinite"),
        (np.array([[0.0, np.inf]], np.float32), "NaN or infinite"),
    ],
)
def test_grey_without_a_known_scale_is_refused(values: np.ndarray, message: str) -> None:
    with pytest.raises(ImageDecodeError, match=message):
        decode_rgb(encoded(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize(
    "raised",
    [
        Image.DecompressionBombError("too\nlarge"),
        RuntimeError("Failed to decode"),
        NotImplementedError("DDS"),
        zlib.error("bad"),
        struct.error("short"),
        KeyError("tag"),
        IndexError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_codec_raises_is_one_line(monkeypatch: pytest.MonkeyPatch, raised: Exception) -> None:
    def fail(_: object) -> None:
        raise raised

    monkeypatch.setattr(source_module.Image, "open", fail)
    with pytest.raises(ImageDecodeError) as caught:
        decode_rgb(b"x")
    assert str(caught.value)
    assert "\n" not in str(caught.value)


def test_running_out_of_memory_is_no_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(source_module.Image, "open", fail)
    with pytest.raises(MemoryError):
        decode_rgb(b"x")


def test_picture_larger_than_its_file_admits_is_refused() -> None:
    header = b"P6 40000 40000 255\n"
    with pytest.raises(ImageDecodeError, match="decompression bomb"):
        decode_rgb(header)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
def test_cut_and_altered_files_decode_or_fail_in_one_line(fmt: str) -> None:
    draw = random.Random(f"fuzz {fmt}")
    pixels = np.random.default_rng(0).integers(0, 255, (12, 15, 3), dtype=np.uint8)
    options = {"compression": "tiff_lzw"} if fmt == "TIFF" else {}
    whole = encoded(Image.fromarray(pixels), fmt, **options)
    reasons = []
    for case in range(120):
        data = bytearray(whole)
        if case % 3 == 0:
            data = data[: draw.randrange(len(data))]
        for _ in range(0 if case % 3 == 0 else draw.randint(1, 8)):
            # headers matter most: half of the changes hit the first 64 bytes
            place = draw.randrange(min(64, len(data))) if draw.random() < 0.5 else draw.randrange(len(data))
            data[place] ^= 1 << draw.randrange(8)
        try:
            decoded, _ = decode_rgb(bytes(data))
        except ImageDecodeError as error:
            reasons.append(str(error))
        else:
            assert decoded.dtype == np.uint8
            assert decoded.shape[2] == 3
    assert len(reasons) >= 20  # the cases do break files
    assert not any("\n" in reason for reason in reasons)


def zip_with(path: Path, data: bytes) -> ZipSource:
    path.write_bytes(data)
    return ZipSource(SourceSpec("zip", str(path)))


def test_altered_and_encrypted_members_fail_alone(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", encoded(noise, "BMP"))
        archive.writestr("b.png", encoded(noise, "PNG"))
    good = buffer.getvalue()
    start = 30 + len("a.png")
    altered = bytearray(good)
    altered[start : start + 40] = bytes(range(100, 140))  # no valid deflate stream: zlib.error
    source = zip_with(tmp_path / "altered.zip", bytes(altered))
    with pytest.raises(ImageDecodeError, match="cannot be read from the archive"):
        source.load(0)
    assert source.load(1).pixels.shape == (20, 20, 3)
    locked = bytearray(good)
    locked[6] |= 1
    entry = good.index(b"PK\1\2")
    locked[entry + 8] |= 1  # "encrypted" in the local and in the central header
    with pytest.raises(ImageDecodeError, match="encrypted"):
        zip_with(tmp_path / "locked.zip", bytes(locked)).load(0)


def test_members_cut_at_random_never_raise_anything_else(tmp_path: Path) -> None:
    draw = random.Random(1)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8))
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.writestr("a.png", encoded(noise, "PNG"))
        whole, body = buffer.getvalue(), buffer.getvalue().index(b"PK\1\2")
        for case in range(30):
            data = bytearray(whole)
            data[draw.randrange(30, body)] ^= 1 << draw.randrange(8)
            source = zip_with(tmp_path / f"{method}-{case}.zip", bytes(data))
            with pytest.raises(ImageDecodeError):
                source.load(0)
