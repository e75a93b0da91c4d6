"""Published weight files of extractors: where they are looked for, and what is said when they are not there."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from minoritybench.assets import cache_folder, misfit, read_tensors
from minoritybench.errors import BadInputError, MissingAssetError
from minoritybench.store import sha256_file


@dataclass(frozen=True)
class PublishedFile:
    """A weight file and its page; `sha256` is what its digest begins with, None to take any file."""

    file: str
    size: str
    url: str
    sha256: str | None


PUBLISHED = {
    "inception-clean": PublishedFile(
        "inception-2015-12-05.pt",
        "96 MB",
        "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
        "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    ),
    "inception-fid": PublishedFile(
        "pt_inception-2015-12-05-6726825d.pth",
        "95 MB",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        "6726825d",
    ),
    "vgg16-fc2": PublishedFile(
        "vgg16-397923af.pth", "528 MB", "https://download.pytorch.org/models/vgg16-397923af.pth", "397923af"
    ),
}


def locate(extractor: str) -> tuple[Path, str]:
    """The weight file of an extractor and its SHA-256, checked before anything in it is read: in our cache folder, in
    torch's, or where clean-fid keeps its own. Exit 4 with one line of instructions where it is in none of them; nothing
    is downloaded. Error: another file under the published name exits 2."""
    published = PUBLISHED[extractor]
    own = cache_folder() / "extractors" / extractor / published.file
    places: tuple[Path, ...] = (own, Path(torch.hub.get_dir()) / "checkpoints" / published.file)
    if extractor == "inception-clean":
        places += (Path(tempfile.gettempdir()) / published.file,)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise MissingAssetError(
            f"{extractor}: weights {published.file} ({published.size}) are not here; fetch {published.url} to {own}"
        )
    digest = sha256_file(path)
    if published.sha256 is not None and not digest.startswith(published.sha256):
        raise BadInputError(
            f"{extractor}: {path} is not the published file (its sha256 begins with {digest[:8]}, not"
            f" {published.sha256[:8]}); fetch {published.url} again"
        )
    return path, digest


def load_into(module: nn.Module, path: Path, name: str) -> None:
    """Fill a module, which may lie on the meta device, with the tensors of a file, strictly; counters of batches that
    older files lack are zero. Freezes it in evaluation mode."""
    tensors = {
        key: value.float() if value.is_floating_point() else value for key, value in read_tensors(path, name).items()
    }
    for key in module.state_dict():
        if key.endswith("num_batches_tracked"):
            tensors.setdefault(key, torch.zeros((), dtype=torch.int64))
    fault = misfit(module.state_dict(), tensors)
    if fault is not None:
        raise BadInputError(f"{path} does not hold the weights of {name}: it {fault}")
    module.load_state_dict(tensors, assign=True)
    module.eval().requires_grad_(False)
