"""A CIFAR-10 ResNet as an encoder of your own: its 64 pooled features, before the classifier.

Weights: `resnet56-4bfd9763.th` of akamaster/pytorch_resnet_cifar10 (BSD-2), given by `--weights` or RESNET56_WEIGHTS.

    minoritybench rank-dataset cifar10_test.zip --encoder docs/examples/resnet56_cifar10.py:load --weights PATH

A supervised network and no JEPA: its score says nothing of rarity in the world, its spectrum is a trained one.
Reference: He et al. 2016, section 4.2, option A shortcuts (subsampled, padded with zero channels).
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minoritybench.data.resize import resize
from minoritybench.errors import MissingAssetError
from minoritybench.store import sha256_file

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what the weights were trained with


class Block(nn.Module):
    """Two 3 x 3 convolutions and a parameter-free shortcut."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.grows = width - before
        self.conv1 = nn.Conv2d(before, width, 3, stride=2 if self.grows else 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        side = self.grows // 2
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, side, side)) if self.grows else x
        return F.relu(out + shortcut)


class ResNet(nn.Module):
    """Three stages of `depth` blocks, 16, 32 and 64 channels wide, pooled to `(B, 64)`."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = [(16, 16), (16, 32), (32, 64)]
        for number, (before, width) in enumerate(widths, start=1):
            blocks = [Block(before if first else width, width) for first in [True] + [False] * (depth - 1)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for number in (1, 2, 3):
            x = getattr(self, f"layer{number}")(x)
        return x.mean(dim=(2, 3))


class ResNet56:
    """The network behind the encoder interface; no structural null directions, so none are declared."""

    name, dim, input_size, preprocess, micro_batch = "resnet56-cifar10", 64, 32, "antialias-32", 16

    def __init__(self, weights: Path, device: str) -> None:
        if not weights.is_file():
            raise MissingAssetError(f"{weights}: no such file; give the ResNet-56 weights by --weights PATH")
        stored = torch.load(weights, map_location="cpu", weights_only=True)["state_dict"]
        named = {key.removeprefix("module."): value for key, value in stored.items()}
        self.module = ResNet(depth=9)
        self.module.load_state_dict({key: value for key, value in named.items() if not key.startswith("linear.")})
        self.module.eval().requires_grad_(False).to(device)
        self.weights_sha256 = sha256_file(weights)
        self.device = device
        self.mean, self.std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (MEAN, STD))

    def prepare(self, images: Tensor) -> Tensor:
        """`[0, 1]` RGB to the normalised 32 x 32 network input."""
        return (resize(images.to(self.device), self.preprocess) - self.mean) / self.std

    def __call__(self, prepared: Tensor) -> Tensor:
        """Pooled features `(B, 64)`."""
        features: Tensor = self.module(prepared)
        return features


def load(weights: str | None = None, device: str = "cpu") -> ResNet56:
    """The encoder, from `--weights` or the environment variable RESNET56_WEIGHTS."""
    return ResNet56(Path(weights or os.environ.get("RESNET56_WEIGHTS", "resnet56-4bfd9763.th")), device)
