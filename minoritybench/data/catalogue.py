"""Known datasets that are not embedded: what to fetch, from where, and where to put it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

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


def open_known(spec: SourceSpec) -> NoReturn:
    """Say what a known dataset needs (exit 4), or, where its files are there, how to rank them today (exit 2)."""
    known = _KNOWN[spec.name]
    root = Path(spec.root or DEFAULT_ROOT)
    missing = [name for name in known.files if not (root / name).exists()]
    if missing:
        raise MissingAssetError(
            f"{spec.name}: {' and '.join(str(root / name) for name in missing)} not found; get {known.source}, "
            f"{known.size}, and put it under {root.absolute()} (or name another folder with --root)"
        )
    if known.images:
        raise BadInputError(
            f"{spec.name} is there, but its reader is not built yet; rank its images as a folder: "
            f"minoritybench rank-dataset {root / known.images}"
        )
    raise BadInputError(
        f"{spec.name} is there, but its packed format has no reader yet; export it to PNG and rank the folder"
    )
