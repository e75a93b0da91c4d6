"""VGG16's second fully connected layer, the space of improved precision and recall (Kynkaanniemi et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from minoritybench.data.resize import resize
from minoritybench.encoders.module import IMAGENET
from minoritybench.features.network import NetworkExtractor
from minoritybench.features.weights import load_into, locate

_PREPROCESS = "pil-bicubic-224"


def load_vgg16(name: str, device: str = "cpu") -> NetworkExtractor:
    """`vgg16-fc2`: fc2 after its ReLU `(4096,)`, with torchvision's ImageNet weights."""
    from torchvision.models import vgg16

    path, digest = locate(name)
    with torch.device("meta"):
        network = vgg16(weights=None, init_weights=False)
    load_into(network, path, name)
    network.to(device)
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in IMAGENET)

    def forward(pixels: Tensor) -> dict[str, Tensor]:
        return {"fc2": network.classifier[:5](network.avgpool(network.features(pixels)).flatten(1))}

    return NetworkExtractor(
        name,
        forward,
        prepare=lambda image: (resize(image, _PREPROCESS) - mean) / std,
        preprocess=_PREPROCESS,
        layers=("fc2",),
        weights_sha256=digest,
        device=device,
    )
