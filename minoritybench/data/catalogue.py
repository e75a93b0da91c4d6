"""Known datasets that are not embedded: what to fetch, from where, and where to put it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minoritybench.data.folder import FolderSource
from minoritybench.data.source import SourceSpec
from minoritybench.errors import BadInputError, MissingAssetError


@dataclass(frozen=True)
class KnownDataset:
    """`files` are relative to the root; the first decides whether the data are there. `images` is what to rank."""

    files: tuple[str, ...]
    images: str
    source: str
    size: str


_KNOWN = {
    "celeba": KnownDataset(
        ("celeba/img_align_celeba", "celeba/list_eval_partition.txt"),
        "celeba/img_align_celeba",
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (img_align_celeba.zip, unpacked)",
        "1.4 GB",
    ),
    "imagenet": KnownDataset(
        ("imagenet/train",),
        "imagenet/train",
        "https://www.image-net.org/download.php (ILSVRC2012_img_train.tar, one folder a class)",
        "138 GB",
    ),
    "cifar10": KnownDataset(
        ("cifar-10-batches-py",),
        "",
        "https://www.cs.toronto.edu/~kriz/cifar.html (cifar-10-python.tar.gz, unpacked)",
        "170 MB",
    ),
    "cifar100": KnownDataset(
        ("cifar-100-python",),
        "",
        "https://www.cs.toronto.edu/~kriz/cifar.html (cifar-100-python.tar.gz, unpacked)",
        "169 MB",
    ),
    "mnist": KnownDataset(
        ("MNIST/raw/train-images-idx3-ubyte",),
        "",
        "https://ossci-datasets.s3.amazonaws.com/mnist/ (four .gz files, unpacked)",
        "12 MB",
    ),
    "fashion-mnist": KnownDataset(
        ("FashionMNIST/raw/train-images-idx3-ubyte",),
        "",
        "https://github.com/zalandoresearch/fashion-mnist (four .gz files, unpacked)",
        "30 MB",
    ),
    "coco-captions": KnownDataset(
        ("coco/val2014", "coco/annotations/captions_val2014.json"),
        "coco/val2014",
        "https://cocodataset.org/#download (val2014.zip and annotations_trainval2014.zip, unpacked)",
        "6.5 GB",
    ),
}

DEFAULT_ROOT = "data"


def require(name: str, root: str | None) -> Path:
    """The root under which a known dataset's files lie; exit 4 with one line that says what is absent, where to get it
    and where to put it."""
    known = _KNOWN[name]
    folder = Path(root or DEFAULT_ROOT).absolute()
    missing = [str(folder / item) for item in known.files if not (folder / item).exists()]
    if missing:
        raise MissingAssetError(
            f"{name}: {' and '.join(missing)} not found; get {known.source}, {known.size}, "
            f"and put it under {folder} (or name another folder with --root)"
        )
    return folder


def open_folder_dataset(spec: SourceSpec) -> FolderSource:
    """A known dataset that is a plain folder of images (ImageNet's training split, COCO)."""
    if spec.split not in (None, "train"):
        raise BadInputError(f"--split {spec.split!r}: {spec.name} is read as one split here")
    root = require(spec.name, spec.root)
    source = FolderSource(SourceSpec("folder", str(root / _KNOWN[spec.name].images), None, spec.limit))
    source.spec = SourceSpec(spec.name, str(root), spec.split, spec.limit)
    return source
