"""Image sources: order, decoding of odd files, messages for what is missing."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minoritybench.data.source import ImageDecodeError, SourceSpec, decode_rgb, open_source, spec_from_argument
from minoritybench.errors import BadInputError, MissingAssetError


def encoded(image: Image.Image, fmt: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=fmt, **options)
    return buffer.getvalue()


def test_modes_become_rgb_and_say_so() -> None:
    grey = Image.fromarray(np.full((4, 5), 200, np.uint8))
    for image, fmt, conversion in [
        (grey, "PNG", "L -> RGB"),
        (grey.convert("P"), "PNG", "P -> RGB"),
        (grey.convert("CMYK"), "JPEG", "CMYK -> RGB"),
        (grey.convert("RGB"), "PNG", None),
    ]:
        pixels, said = decode_rgb(encoded(image, fmt))
        assert said == conversion
        assert pixels.shape == (4, 5, 3)
        assert np.abs(pixels.astype(int) - 200).max() <= 3


def test_sixteen_bits_are_scaled_not_cut() -> None:
    values = np.array([[0, 32768, 65535]], dtype=np.uint16)
    pixels, said = decode_rgb(encoded(Image.fromarray(values)))
    assert pixels[0, :, 0].tolist() == [0, 128, 255]
    assert said == "I;16 from 0..65535 -> RGB"


def test_transparency_is_laid_on_white() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    pixels, said = decode_rgb(encoded(image))
    assert pixels.tolist() == [[[255, 0, 0], [255, 255, 255]]]
    assert said == "RGBA on white -> RGB"


def test_animations_give_their_first_frame_and_say_so() -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue", "green")]
    pixels, said = decode_rgb(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert said is not None
    assert "first of 3 frames" in said


def test_exif_orientation_is_applied() -> None:
    image = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to show upright
    assert decode_rgb(encoded(image, "PNG", exif=exif))[0].shape == (2, 1, 3)


@pytest.mark.parametrize("data", [b"", b"hello, I am text", encoded(Image.new("RGB", (50, 50)), "JPEG")[:400]])
def test_broken_files_are_decode_errors(data: bytes) -> None:
    with pytest.raises(ImageDecodeError):
        decode_rgb(data)


def test_folder_ids_are_sorted_relative_paths(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.PNG", "a.jpg", "note.txt", ".hidden/x.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    source = open_source(spec_from_argument(str(tmp_path), None, None, None))
    assert list(source.ids) == ["a.jpg", "b/10.PNG", "b/2.png"]
    before = source.fingerprint()
    (tmp_path / "a.jpg").write_bytes(b"changed")
    assert open_source(source.spec).fingerprint() != before
    limited = open_source(spec_from_argument(str(tmp_path), None, None, 2))
    assert list(limited.ids) == ["a.jpg", "b/10.PNG"]


def test_digits_splits() -> None:
    train, test = (open_source(SourceSpec("digits", split=split)) for split in ("train", "test"))
    assert (len(train.ids), len(test.ids)) == (1500, 297)
    assert not set(train.ids) & set(test.ids)
    image = train.load(0)
    assert image.pixels.shape == (8, 8, 3)
    assert image.sha256 != train.load(1).sha256


@pytest.mark.parametrize(
    "name", ["celeba", "imagenet", "cifar10", "cifar100", "mnist", "fashion-mnist", "coco-captions"]
)
@pytest.mark.parametrize("root_exists", [True, False])
def test_known_but_absent_data_say_what_to_get(name: str, root_exists: bool, tmp_path: Path) -> None:
    root = tmp_path if root_exists else tmp_path / "nowhere"
    with pytest.raises(MissingAssetError, match=str(root)) as error:
        open_source(SourceSpec(name, str(root)))
    assert error.value.exit_code == 4
    assert "https://" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("argument", "message"),
    [("digitz", "did you mean 'digits'"), ("./nowhere", "no such folder"), (__file__, "is a file")],
)
def test_unknown_datasets_are_explained(argument: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        spec_from_argument(argument, None, None, None)


def test_empty_folder_and_wrong_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no images"):
        open_source(SourceSpec("folder", str(tmp_path)))
    with pytest.raises(BadInputError, match="train, test"):
        open_source(SourceSpec("digits", split="validation"))
