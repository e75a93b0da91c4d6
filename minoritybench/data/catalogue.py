"""Known datasets that are not embedded: what to fetch, from where, and where to put it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minoritybench.data.folder import FolderSource
from minoritybench.data.hub import HubRepo, HubSource, cached
from minoritybench.data.source import SourceSpec
from minoritybench.errors import BadInputError, MissingAssetError


@dataclass(frozen=True)
class KnownDataset:
    """`files` are relative to the root and all have to be there. `images` is what to rank. `fetched` is the class in
    torchvision whose downloader `--download` uses, or the repository on the hub that holds a copy as parquet files."""

    files: tuple[str, ...]
    images: str
    source: str
    size: str
    fetched: str | HubRepo | None = None


def _idx_files(folder: str) -> tuple[str, ...]:
    return tuple(
        f"{folder}/raw/{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
    )


_KNOWN = {
    "celeba": KnownDataset(
        ("celeba/img_align_celeba", "celeba/list_eval_partition.txt"),
        "celeba/img_align_celeba",
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (img_align_celeba.zip, unpacked)",
        "1.4 GB",
        HubRepo("flwrlabs/celeba"),  # re-encoded: about 12 GB, and other bytes than the original files
    ),
    "imagenet": KnownDataset(
        ("imagenet/train",),
        "imagenet/train",
        "https://www.image-net.org/download.php (ILSVRC2012_img_train.tar, one folder a class)",
        "138 GB",
        HubRepo("ILSVRC/imagenet-1k", patterns=("data/train-*.parquet",)),
    ),
    "cifar10": KnownDataset(
        ("cifar-10-batches-py",),
        "",
        "https://www.cs.toronto.edu/~kriz/cifar.html (cifar-10-python.tar.gz, unpacked)",
        "170 MB",
        "CIFAR10",
    ),
    "cifar100": KnownDataset(
        ("cifar-100-python",),
        "",
        "https://www.cs.toronto.edu/~kriz/cifar.html (cifar-100-python.tar.gz, unpacked)",
        "169 MB",
        "CIFAR100",
    ),
    "mnist": KnownDataset(
        _idx_files("MNIST"),
        "",
        "https://ossci-datasets.s3.amazonaws.com/mnist/ (four .gz files, unpacked)",
        "12 MB",
        "MNIST",
    ),
    "fashion-mnist": KnownDataset(
        _idx_files("FashionMNIST"),
        "",
        "https://github.com/zalandoresearch/fashion-mnist (four .gz files, unpacked)",
        "30 MB",
        "FashionMNIST",
    ),
    "coco-captions": KnownDataset(
        ("coco/val2014", "coco/annotations/captions_val2014.json"),
        "coco/val2014",
        "https://cocodataset.org/#download (val2014.zip and annotations_trainval2014.zip, unpacked)",
        "6.5 GB",
    ),
}

DEFAULT_ROOT = "data"


def known(name: str) -> KnownDataset | None:
    """What is known of a dataset that has to be fetched; None for any other."""
    return _KNOWN.get(name)


def require(name: str, root: str | None) -> Path:
    """The root under which a known dataset's files lie; exit 4 with one line that says what is absent, where to get it
    and where to put it."""
    dataset = _KNOWN[name]
    folder = Path(root or DEFAULT_ROOT).absolute()
    missing = [str(folder / item) for item in dataset.files if not (folder / item).exists()]
    if missing:
        help_ = ", or add --download" if dataset.fetched else ""
        if isinstance(dataset.fetched, HubRepo):
            help_ += f", which takes the copy at {dataset.fetched.page}"
        raise MissingAssetError(
            f"{name}: {' and '.join(missing)} not found; get {dataset.source}, {dataset.size}, "
            f"and put it under {folder} (or name another folder with --root){help_}"
        )
    return folder


def mirror_folder(name: str, root: str | None) -> Path | None:
    """Where the hub's copy of a known dataset lies: under a given root in `<name>-hub`, else in the hub's cache."""
    fetched = _KNOWN[name].fetched
    if not isinstance(fetched, HubRepo) or (Path(root or DEFAULT_ROOT) / _KNOWN[name].files[0]).exists():
        return None
    if root is None:
        return cached(fetched)
    folder = Path(root).absolute() / f"{name}-hub"
    return folder if folder.is_dir() else None


def find_dataset(name: str) -> Path:
    """Where a known dataset's files lie by default, or the hub's copy of it, not listed. Errors: as `require`."""
    return mirror_folder(name, None) or require(name, None)


def mirror_repo(name: str) -> HubRepo:
    """The repository on the hub that holds a copy of a known dataset."""
    fetched = _KNOWN[name].fetched
    assert isinstance(fetched, HubRepo)
    return fetched


def open_folder_dataset(spec: SourceSpec) -> FolderSource | HubSource:
    """A known dataset that is a plain folder of images (ImageNet's training split, COCO), or the hub's copy of it.

    The copy's ids are `<label>/train-<row>`, the folder's `<wnid>/<file>`: their reference sets do not mix.
    """
    if spec.split not in (None, "train"):
        raise BadInputError(f"--split {spec.split!r}: {spec.name} is read as one split here")
    mirror = mirror_folder(spec.name, spec.root)
    if mirror is not None:
        return HubSource(SourceSpec(spec.name, spec.root, "train", spec.limit), mirror, mirror_repo(spec.name))
    root = require(spec.name, spec.root)
    source = FolderSource(SourceSpec("folder", str(root / _KNOWN[spec.name].images), None, spec.limit))
    source.spec = SourceSpec(spec.name, str(root), spec.split, spec.limit)
    return source
