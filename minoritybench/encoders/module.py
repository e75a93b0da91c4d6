"""A torch module behind the encoder interface: preprocessing, fixed micro-batch, math attention, weight loading."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from minoritybench.assets import misfit, read_tensors
from minoritybench.data.resize import resize
from minoritybench.errors import BadInputError
from minoritybench.store import sha256_file

if TYPE_CHECKING:
    from minoritybench.scoring.vit import LinearisedVit

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
RANDOM_SEED = 0

_ROW_PIXELS = 8 * 56 * 56
"""Pixels a micro-batch: eight images at 56 px, one at 224 px, which keeps a full Jacobian near 250 MB."""


class ModuleEncoder:
    """`module` maps `(B, 3, size, size)` to embeddings; frozen, in evaluation mode.

    Attention runs in the math kernels, chosen locally: the fused ones have no second derivative. `nulls` gives the
    structural null directions of the head at outputs z, `(B, d) -> (B, d, m)`, or None. `linearise` builds the
    module's hand-linearised form from its weights as they then are, in place and precision.
    """

    threads: int | None = None

    def __init__(
        self,
        name: str,
        module: nn.Module,
        *,
        dim: int,
        input_size: int,
        preprocess: str,
        statistics: tuple[tuple[float, ...], tuple[float, ...]],
        weights_sha256: str | None,
        nulls: Callable[[Tensor], Tensor] | None,
        device: str,
        dtype: torch.dtype,
        linearise: Callable[[], LinearisedVit | None] | None = None,
    ) -> None:
        self.name, self.dim, self.input_size = name, dim, input_size
        self.preprocess = f"{preprocess}-{input_size}"
        self.weights_sha256 = weights_sha256
        self.micro_batch = max(1, _ROW_PIXELS // input_size**2)
        self.device, self.dtype = torch.device(device), dtype
        self.module = module.eval().requires_grad_(False).to(device=device, dtype=dtype)
        self._nulls, self._linearise = nulls, linearise
        mean, std = (torch.tensor(values, device=device, dtype=dtype).view(1, 3, 1, 1) for values in statistics)
        self._mean, self._std = mean, std

    def prepare(self, images: Tensor) -> Tensor:
        """`[0, 1]` RGB `(B, 3, H, W)` to the resized, normalised network input, differentiable."""
        moved = images.to(device=self.device, dtype=self.dtype)
        return (resize(moved, self.preprocess) - self._mean) / self._std

    def __call__(self, prepared: Tensor) -> Tensor:
        """Embeddings `(B, dim)`."""
        with sdpa_kernel(SDPBackend.MATH):
            z: Tensor = self.module(prepared)
        return z

    def null_directions(self, z: Tensor) -> Tensor | None:
        """Structural left null directions at outputs z, `(B, dim, m)`."""
        return None if self._nulls is None else self._nulls(z)

    def linearised(self) -> LinearisedVit | None:
        """The hand-linearised form by which exact scores are cheaper, if there is one for this module."""
        return self._linearised

    @cached_property
    def _linearised(self) -> LinearisedVit | None:
        return None if self._linearise is None else self._linearise()


def layer_norm_nulls(norm: nn.LayerNorm) -> Callable[[Tensor], Tensor]:
    """Null directions of a LayerNorm on the output token: `1/gamma` and `x_hat/gamma`."""

    def directions(z: Tensor) -> Tensor:
        inverse = 1.0 / norm.weight
        return torch.stack([inverse.expand_as(z), (z - norm.bias) * inverse * inverse], dim=-1)

    return directions


def mean_of_layer_norm_nulls(norm: nn.LayerNorm) -> Callable[[Tensor], Tensor]:
    """Null direction of a mean over LayerNormed tokens: `1/gamma` alone, for x_hat differs from token to token."""
    return lambda z: (1.0 / norm.weight).expand_as(z).unsqueeze(-1)


def load_tensors(
    module: nn.Module, path: Path, name: str, rename: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> str:
    """Load a safetensors file or a plain `weights_only` state dict, strictly; returns the file's SHA-256.

    A file that does not fit is one line naming it and the first differing keys; nothing is unpickled.
    """
    tensors = rename(read_tensors(path, name))
    fault = misfit(module.state_dict(), tensors)
    if fault is not None:
        raise BadInputError(f"{path} does not hold the weights of {name}: it {fault}")
    module.load_state_dict({key: value.float() for key, value in tensors.items()})
    return sha256_file(path)


def randomise(module: nn.Module, seed: int = RANDOM_SEED) -> None:
    """Seeded random weights with every layer awake: nothing left at zero, LayerScale near one.

    Matrices get normal entries of standard deviation 1/sqrt(fan in); vectors that start at a constant (norms, scales,
    biases) get it plus a small normal draw.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if (
                parameter.ndim > 1
                and "token" not in key
                and "position" not in key
                and "embedding" not in key.rsplit(".", 1)[-1]
            ):
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            elif parameter.ndim > 1:
                parameter.copy_(0.02 * noise)
            else:
                centre = 1.0 if _is_scale(key) else 0.0
                parameter.copy_(centre + 0.1 * noise)


def _is_scale(key: str) -> bool:
    """Weights of norms and LayerScale, by the names that transformers, timm and open_clip give them."""
    return key.endswith(("weight", "gamma", "lambda1"))
