"""`--download` with stand-ins for every downloader: no test opens a connection."""

from __future__ import annotations

import hashlib
import pickle
import shlex
import struct
from pathlib import Path
from typing import Any
from urllib.error import URLError

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from torchvision import datasets

from minoritybench.assets import CACHE_VARIABLE
from minoritybench.cli.rank import command as rank
from minoritybench.data.download import fetch
from minoritybench.data.source import SourceSpec, open_source
from minoritybench.errors import MissingAssetError


@pytest.fixture(autouse=True)
def _no_connection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a test tried to open a connection")

    monkeypatch.setattr("socket.socket.connect", refused)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def write_mnist(root: Path, splits: tuple[str, ...] = ("train", "t10k")) -> None:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for split in splits:
        (raw / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, 2, 28, 28) + bytes(2 * 784))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 2) + bytes([7, 1]))
        (raw / f"{split}-images-idx3-ubyte.gz").write_bytes(b"packed")


class Downloads:
    """Counts the calls of torchvision's MNIST downloader, which it stands in for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
        self.calls = 0

        def download(dataset: datasets.MNIST) -> None:
            self.calls += 1
            write(Path(dataset.root))

        monkeypatch.setattr(datasets.MNIST, "download", download)


def test_packed_sets_come_through_torchvision_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = Downloads(monkeypatch, write_mnist)
    fetch("mnist", str(tmp_path / "data"))
    assert downloads.calls == 2  # one a split; torchvision itself skips what is there
    assert list(open_source(SourceSpec("mnist", str(tmp_path / "data"), "test")).ids) == [
        "1/test-00001",
        "7/test-00000",
    ]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["MNIST"]
    assert not list((tmp_path / "data").rglob("*.gz"))
    fetch("mnist", str(tmp_path / "data"))
    assert downloads.calls == 2


@pytest.mark.parametrize("error", [URLError("unreachable"), RuntimeError("File not\nfound or corrupted."), EOFError()])
def test_failed_download_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def half(root: Path) -> None:
        write_mnist(root, ("train",))
        raise error

    Downloads(monkeypatch, half)
    with pytest.raises(MissingAssetError, match="mnist: download from http") as caught:
        fetch("mnist", str(tmp_path))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4
    assert not list(tmp_path.rglob("*ubyte*"))


def test_half_written_folder_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path)
    (tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte").write_bytes(b"cut")
    downloads = Downloads(monkeypatch, write_mnist)
    fetch("mnist", str(tmp_path))
    assert downloads.calls == 2
    assert len(open_source(SourceSpec("mnist", str(tmp_path), "test")).ids) == 2


def test_cifar_is_checked_by_torchvisions_sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [3, 0]})
    meta = pickle.dumps({"label_names": [str(i) for i in range(10)]})
    digests = {"data_batch_1": batch, "test_batch": batch, "batches.meta": meta}
    sums = {name: hashlib.md5(data).hexdigest() for name, data in digests.items()}
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    named = {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", named)
    altered = True

    def download(dataset: datasets.CIFAR10) -> None:
        folder = Path(dataset.root) / "cifar-10-batches-py"
        folder.mkdir(exist_ok=True)
        for name, data in digests.items():
            (folder / name).write_bytes(data + b"x" * altered)

    monkeypatch.setattr(datasets.CIFAR10, "download", download)
    with pytest.raises(MissingAssetError, match="corrupted"):
        fetch("cifar10", str(tmp_path))
    assert not (tmp_path / "cifar-10-batches-py").exists()
    altered = False
    fetch("cifar10", str(tmp_path))
    assert list(open_source(SourceSpec("cifar10", str(tmp_path))).ids) == ["0/train-00001", "3/train-00000"]


class Snapshots:
    """Stands in for the hub: writes `files` where it is asked to, or raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, files: list[str], error: Exception | None = None) -> None:
        self.asked: list[dict[str, Any]] = []

        def snapshot_download(repo: str, *, local_files_only: bool = False, **options: Any) -> str:
            if local_files_only:
                raise huggingface_hub.errors.LocalEntryNotFoundError("not here")
            self.asked.append({"repo": repo, **options})
            for name in files:
                path = Path(options["local_dir"]) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(pa.table({"image": [{"bytes": b"x", "path": None}]}), path)
            if error is not None:
                raise error
            return str(options["local_dir"])

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)


def test_hub_dataset_lands_in_the_named_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Snapshots(monkeypatch, ["data/train-00000-of-00001.parquet"])
    fetch("hf:someone/things", str(tmp_path / "here"))
    assert hub.asked[0]["repo"] == "someone/things"
    assert hub.asked[0]["repo_type"] == "dataset"
    assert len(open_source(SourceSpec("hf:someone/things", str(tmp_path / "here"))).ids) == 1
    fetch("hf:someone/things", str(tmp_path / "here"))
    assert len(hub.asked) == 1


def test_stopped_hub_download_is_not_taken_for_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = ["data/train-00000-of-00002.parquet"]
    Snapshots(monkeypatch, part, ConnectionError("reset\nby peer"))
    with pytest.raises(MissingAssetError, match="reset by peer; run the same command again"):
        fetch("hf:someone/things", str(tmp_path))
    hub = Snapshots(monkeypatch, part)
    with pytest.raises(MissingAssetError, match="1 of the 2 train files"):
        fetch("hf:someone/things", str(tmp_path))
    assert len(hub.asked) == 1


def test_celeba_comes_as_the_hubs_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Snapshots(monkeypatch, ["img_align+identity+attr/train-00000-of-00001.parquet"])
    fetch("celeba", str(tmp_path))
    assert hub.asked[0]["repo"] == "flwrlabs/celeba"
    assert list(open_source(SourceSpec("celeba", str(tmp_path))).ids) == ["train/00000000"]


def test_gated_imagenet_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gated = huggingface_hub.errors.GatedRepoError.__new__(huggingface_hub.errors.GatedRepoError)
    Snapshots(monkeypatch, [], gated)
    with pytest.raises(
        MissingAssetError, match=r"ILSVRC/imagenet-1k is gated; accept its terms at https.*hf auth login"
    ):
        fetch("imagenet", str(tmp_path))


def test_nothing_is_fetched_for_embedded_and_local_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Snapshots(monkeypatch, [])
    for name in ("digits", str(tmp_path)):
        fetch(name, None)
    assert not hub.asked
    with pytest.raises(MissingAssetError, match="cocodataset"):
        fetch("coco-captions", str(tmp_path))


def test_data_and_weights_are_told_together(tmp_path: Path) -> None:
    """What, how large, from where, to which path, for both; and the command to run after."""
    words = ["celeba", "--root", str(tmp_path), "--keep", "10000"]
    with pytest.raises(MissingAssetError) as error:
        CliRunner().invoke(rank, words, standalone_mode=False, catch_exceptions=False)
    said = str(error.value)
    assert "\n" not in said
    for part in (
        str(tmp_path / "celeba" / "img_align_celeba"),
        "https://mmlab.ie.cuhk.edu.hk",
        "1.4 GB",
        "hf download facebook/dinov2-with-registers-small model.safetensors",
        "88 MB",
        str(tmp_path / "cache" / "encoders" / "dinov2-vits14-reg" / "model.safetensors"),
    ):
        assert part in said
    assert said.endswith(f"then run: {shlex.join(['minoritybench', 'rank-dataset', *words])}")


def test_without_the_flag_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Snapshots(monkeypatch, ["data/train-00000-of-00001.parquet"])
    words = [
        "hf:someone/things",
        "--root",
        str(tmp_path / "x"),
        "--encoder",
        "digits-jepa",
        "--out",
        str(tmp_path / "o"),
    ]
    with pytest.raises(MissingAssetError, match="add --download"):
        CliRunner().invoke(rank, words, standalone_mode=False, catch_exceptions=False)
    with pytest.raises(MissingAssetError):
        CliRunner().invoke(rank, [*words, "--download", "--dry-run"], standalone_mode=False, catch_exceptions=False)
    assert not hub.asked
    done = CliRunner().invoke(rank, [*words, "--download"], standalone_mode=False)
    assert hub.asked
    assert "none of the 1 images could be scored" in str(done.exception)
