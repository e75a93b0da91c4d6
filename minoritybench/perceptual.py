"""How far two images are apart, as methods ask for it: `distance:l2`, `distance:lpips-alex`, `distance:lpips-vgg`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minoritybench.errors import BadInputError, MissingAssetError
from minoritybench.needs import Need
from minoritybench.store import sha256_file

Distance = Callable[[Tensor, Tensor], Tensor]
"""Two batches of images in diffusion space `[-1, 1]`, `(B, C, H, W)`, to distances `(B,)`; differentiable."""


@dataclass(frozen=True)
class Backbone:
    """The classification network whose features LPIPS compares: torchvision's file and where it comes from. Below
    `least` pixels a side its feature maps vanish."""

    net: str
    file: str
    size: str
    least: int


BACKBONES = {
    "lpips-alex": Backbone("alex", "alexnet-owt-7be5be79.pth", "233 MB", 32),
    "lpips-vgg": Backbone("vgg", "vgg16-397923af.pth", "528 MB", 16),
}
_SOURCE = "https://download.pytorch.org/models"


def open_distance(name: str, device: str = "cpu") -> Need:
    """The distance of that name. Errors: unknown name exits 2, absent LPIPS backbone weights exit 4."""
    digest = weights_digest(name)
    return Need(euclidean if digest is None else Lpips(BACKBONES[name], device), digest)


def weights_digest(name: str) -> str | None:
    """SHA-256 of a distance's weights, None where it has none. Errors as above."""
    if name == "l2":
        return None
    if name not in BACKBONES:
        raise BadInputError(f"unknown distance {name!r}; known: l2, {', '.join(BACKBONES)}")
    backbone = BACKBONES[name]
    path = backbone_path(backbone)
    if not path.is_file():
        raise MissingAssetError(
            f"distance {name}: weights {backbone.file} ({backbone.size}) are not here; fetch"
            f" {_SOURCE}/{backbone.file} to {path}, or do without: --set distance=l2"
        )
    return sha256_file(path)


def backbone_path(backbone: Backbone) -> Path:
    """Where torchvision keeps the weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / backbone.file


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """L2 norm of the difference `(B,)`; at equal images its gradient is zero."""
    return torch.linalg.vector_norm((a - b).flatten(1), dim=1)


class Lpips:
    """LPIPS 0.1 (Zhang et al. 2018, arXiv:1801.03924) with torchmetrics' linear heads; images are not clamped."""

    def __init__(self, backbone: Backbone, device: str) -> None:
        from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

        self.least = backbone.least
        metric: Any = LearnedPerceptualImagePatchSimilarity(net_type=backbone.net)  # type: ignore[arg-type]
        self._net = metric.net.to(device).eval().requires_grad_(False)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """LPIPS `(B,)` of greyscale or RGB images in `[-1, 1]`."""
        if min(a.shape[2:]) < self.least:
            raise BadInputError(
                f"LPIPS needs images of {self.least} px or more, these have {min(a.shape[2:])}: --set distance=l2"
            )
        distance: Tensor = self._net(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1))
        return distance.flatten()
