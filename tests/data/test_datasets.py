"""Named datasets in the layouts that their publishers and torchvision use, faked small; zip archives."""

from __future__ import annotations

import hashlib
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minoritybench.data.celeba import centre_crop
from minoritybench.data.source import ImageDecodeError, SourceSpec, open_source, spec_from_argument
from minoritybench.errors import BadInputError


def write_png(path: Path, value: int, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


@pytest.fixture
def celeba(tmp_path: Path) -> Path:
    folder = tmp_path / "celeba"
    lines = []
    for number in range(1, 7):
        name = f"{number:06d}.jpg"
        write_png(folder / "img_align_celeba" / name, 30 * number, (178, 218))
        lines.append(f"{name} {0 if number <= 3 else number - 3 if number <= 5 else 2}")
    (folder / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_celeba_is_split_aware_and_cropped(celeba: Path) -> None:
    train = open_source(SourceSpec("celeba", str(celeba)))
    assert list(train.ids) == ["000001.jpg", "000002.jpg", "000003.jpg"]
    assert train.load(0).pixels.shape == (64, 64, 3)
    assert list(open_source(SourceSpec("celeba", str(celeba), "test")).ids) == ["000005.jpg", "000006.jpg"]
    assert open_source(train.spec).ids == train.ids
    with pytest.raises(BadInputError, match="train, valid, test"):
        open_source(SourceSpec("celeba", str(celeba), "dev"))


def test_missing_face_is_a_failure_of_that_image(celeba: Path) -> None:
    (celeba / "celeba" / "img_align_celeba" / "000002.jpg").unlink()
    source = open_source(SourceSpec("celeba", str(celeba)))
    with pytest.raises(ImageDecodeError, match="cannot be read"):
        source.load(1)


def test_centre_crop_halves_then_resizes_then_crops() -> None:
    """178 x 218 goes through 89 x 109: a centred square of side 2k in the source stays centred at side 2k * 64/178."""
    image = np.zeros((218, 178, 3), np.uint8)
    image[109 - 40 : 109 + 40, 89 - 40 : 89 + 40] = 255
    cropped = centre_crop(image, 64)[..., 0] > 127
    rows, columns = np.flatnonzero(cropped.any(axis=1)), np.flatnonzero(cropped.any(axis=0))
    for found in (rows, columns):
        assert abs(len(found) - 80 * 64 / 178) <= 1
        assert abs(found.mean() - 31.5) <= 0.6


def test_imagenet_folder_layout(tmp_path: Path) -> None:
    for name in ("n02", "n01"):
        write_png(tmp_path / "imagenet" / "train" / name / "a.JPEG.png", 9)
    source = open_source(SourceSpec("imagenet", str(tmp_path)))
    assert list(source.ids) == ["n01/a.JPEG.png", "n02/a.JPEG.png"]
    assert open_source(source.spec).ids == source.ids
    assert source.spec.name == "imagenet"


def test_mnist_raw_layout(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.arange(3 * 28 * 28, dtype=np.int64).reshape(3, 28, 28).astype(np.uint8)
    for split in ("train", "t10k"):
        (raw / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, 3, 28, 28) + images.tobytes())
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 3) + bytes([7, 1, 7]))
    source = open_source(SourceSpec("mnist", str(tmp_path), "test"))
    assert list(source.ids) == ["1/test-00001", "7/test-00000", "7/test-00002"]
    assert (source.load(0).pixels[..., 0] == images[1]).all()
    assert (source.load(2).pixels[..., 2] == images[2]).all()


def test_cifar_layout_and_altered_files_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    digests = {}
    for name in ("data_batch_1", "test_batch"):
        batch = {"data": rng.integers(0, 255, (4, 3072), dtype=np.uint8), "labels": [3, 0, 3, 9]}
        (folder / name).write_bytes(pickle.dumps(batch))
        digests[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(i) for i in range(10)]}))
    meta = {
        "filename": "batches.meta",
        "key": "label_names",
        "md5": hashlib.md5((folder / "batches.meta").read_bytes()).hexdigest(),
    }
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", digests["data_batch_1"]]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", digests["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", meta)
    source = open_source(SourceSpec("cifar10", str(tmp_path)))
    assert list(source.ids) == ["0/train-00001", "3/train-00000", "3/train-00002", "9/train-00003"]
    assert source.load(0).pixels.shape == (32, 32, 3)
    (folder / "data_batch_1").write_bytes(b"altered")
    with pytest.raises(BadInputError, match="incomplete or altered"):
        open_source(SourceSpec("cifar10", str(tmp_path)))


def test_zip_is_read_in_place(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", 50)
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / "a.png", "x/b.png")
        archive.writestr("broken.png", b"no")
        archive.writestr("__MACOSX/._b.png", b"fork")
        archive.writestr("notes.txt", b"text")
    source = open_source(spec_from_argument(str(path), None, None, None))
    assert list(source.ids) == ["broken.png", "x/b.png"]
    assert source.load(1).pixels[0, 0].tolist() == [50, 50, 50]
    with pytest.raises(ImageDecodeError):
        source.load(0)


def test_zip_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"not a zip")
    with pytest.raises(BadInputError, match="not a zip"):
        open_source(spec_from_argument(str(tmp_path / "x.zip"), None, None, None))
