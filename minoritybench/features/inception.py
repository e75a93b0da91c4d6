"""Inception v3 of 2015 in its two well-kept ports.

`inception-clean` is the TorchScript network that clean-fid (Parmar et al. 2022) runs, behind clean-fid's resize.
`inception-fid` is pytorch-fid's port: torchvision's network with the pooling of the TensorFlow graph (padding is left
out of averages, the last block takes a maximum) and 1,008 logits; its key names are torchvision's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minoritybench.data.resize import resize
from minoritybench.features.network import NetworkExtractor
from minoritybench.features.weights import load_into, locate

SIDE = 299
SPATIAL = 7
"""Channels of a 17 x 17 map that sFID takes: 2,023 numbers, about as many as pool3 has (Nash et al. 2021)."""
FID_LAYERS = ("pool3", "6d", "6e", "logits")
_CLEAN, _IN_NETWORK = f"clean-bicubic-{SIDE}", f"author-bilinear-{SIDE}"


def load_inception_clean(name: str, device: str = "cpu") -> NetworkExtractor:
    """`inception-clean`: pool3 `(2048,)`, what cFID is measured on."""
    from cleanfid.inception_torchscript import InceptionV3W

    jit: Any = torch.jit
    path, digest = locate(name)
    with warnings.catch_warnings():  # TorchScript is deprecated, but the published file is nothing else
        warnings.simplefilter("ignore", FutureWarning)
        network = InceptionV3W(str(path.parent), download=False).to(device)

    def forward(pixels: Tensor) -> dict[str, Tensor]:
        with jit.optimized_execution(False):  # else the third call may run other kernels than the first
            return {"pool3": network(pixels)}

    return NetworkExtractor(
        name,
        forward,
        prepare=lambda image: resize(image, _CLEAN) * 255,
        preprocess=_CLEAN,
        layers=("pool3",),
        weights_sha256=digest,
        device=device,
    )


def load_inception_fid(name: str, device: str = "cpu") -> NetworkExtractor:
    """`inception-fid`: `pool3` (FID), `6d` and `6e` (sFID and its variant, 2,023 each) and `logits`, the 1,008 of the
    Inception Score, without their bias."""
    path, digest = locate(name)
    network = open_network(path, name).to(device)
    return NetworkExtractor(
        name,
        lambda pixels: fid_layers(network, pixels),
        prepare=lambda image: resize(image, _IN_NETWORK) * 2 - 1,
        preprocess=_IN_NETWORK,
        layers=FID_LAYERS,
        weights_sha256=digest,
        device=device,
    )


def empty_network() -> Any:
    """torchvision's Inception v3 with 1,008 logits and no auxiliary head; weights are whatever the device gives."""
    from torchvision.models.inception import Inception3

    return Inception3(num_classes=1008, aux_logits=False, transform_input=False, init_weights=False)


def open_network(path: Path, name: str) -> Any:
    """The network with the weights of a file."""
    with torch.device("meta"):
        network = empty_network()
    load_into(network, path, name)
    return network


def fid_layers(network: Any, x: Tensor) -> dict[str, Tensor]:
    """`(B, 3, 299, 299)` in `[-1, 1]` to pool3 `(B, 2048)`, the first seven channels of the outputs of Mixed_6d and
    Mixed_6e `(B, 2023)`, and unbiased logits `(B, 1008)`.

    The TensorFlow layer that sFID is defined on, `mixed_6/conv`, is the 1 x 1 branch of Mixed_6d, and that branch comes
    first in the block's output.
    """
    for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3"):
        x = getattr(network, name)(x)
    x = network.maxpool2(x)
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        x = _repooled(getattr(network, name), x, _mean)
    x = network.Mixed_6a(x)
    for name in ("Mixed_6b", "Mixed_6c"):
        x = _repooled(getattr(network, name), x, _mean)
    spatial_6d = _repooled(network.Mixed_6d, x, _mean)
    spatial_6e = _repooled(network.Mixed_6e, spatial_6d, _mean)
    x = network.Mixed_7a(spatial_6e)
    x = _repooled(network.Mixed_7b, x, _mean)
    x = _repooled(network.Mixed_7c, x, _largest)
    pool3 = x.mean(dim=(2, 3))
    return {
        "pool3": pool3,
        "6d": spatial_6d[:, :SPATIAL].flatten(1),
        "6e": spatial_6e[:, :SPATIAL].flatten(1),
        "logits": pool3 @ network.fc.weight.T,
    }


def _mean(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, kernel_size=3, stride=1, padding=1, count_include_pad=False)


def _largest(x: Tensor) -> Tensor:
    return F.max_pool2d(x, kernel_size=3, stride=1, padding=1)


def _repooled(block: nn.Module, x: Tensor, pool: Callable[[Tensor], Tensor]) -> Tensor:
    """A block's output with its last branch, the pooled one, taken over another pooling."""
    output: Tensor = block(x)
    branch: Any = block.branch_pool
    pooled: Tensor = branch(pool(x))
    return torch.cat([output[:, : -pooled.shape[1]], pooled], dim=1)
