"""The embedded digits encoders behind the encoder interface."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from minoritybench.data.resize import resize
from minoritybench.embedded.models import IJepaViT, SphereMLP, VicregMLP
from minoritybench.embedded.weights import load_file_into, load_module, random_module, weights_path
from minoritybench.errors import MissingAssetError
from minoritybench.store import sha256_file

if TYPE_CHECKING:
    from minoritybench.scoring.mlp import LinearisedMlp, MlpProducts
    from minoritybench.scoring.vit import LinearisedVit

RANDOM_SEED = 0


class DigitsEncoder:
    """A greyscale encoder of 8x8 or 16x16: images are averaged over channels and resized with antialiasing."""

    micro_batch = 64
    threads = 1

    def __init__(
        self,
        name: str,
        *,
        weights: Literal["random"] | Path | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.name = name
        self.weights_sha256: str | None = None
        if weights == "random":
            module = random_module(name, RANDOM_SEED)
        else:
            path = weights_path(name) if weights is None else Path(weights)
            if weights is not None and not path.is_file():
                raise MissingAssetError(
                    f"--weights {path}: no such file; it should hold {name}'s tensors as safetensors"
                )
            module = load_module(name) if weights is None else load_file_into(name, path)
            self.weights_sha256 = sha256_file(path)
        self.module = module.to(device=device, dtype=dtype)
        assert isinstance(module, SphereMLP | VicregMLP | IJepaViT)
        self.dim = module.dim
        self.input_size = module.image_size
        self.preprocess = f"antialias-{self.input_size}"
        self.device, self.dtype = torch.device(device), dtype

    def prepare(self, images: Tensor) -> Tensor:
        """`[0, 1]` RGB `(B, 3, H, W)` to the network input: `[-1, 1]` grey `(B, 1, size, size)`, differentiable."""
        grey = images.to(device=self.device, dtype=self.dtype).mean(dim=1, keepdim=True)
        return resize(grey, self.preprocess) * 2 - 1

    def __call__(self, prepared: Tensor) -> Tensor:
        """Embeddings `(B, dim)`."""
        z: Tensor = self.module(prepared)
        return z

    def null_directions(self, z: Tensor) -> Tensor | None:
        """Sphere: z itself. Mean of LayerNormed tokens: 1/gamma. Linear head: none."""
        if isinstance(self.module, SphereMLP):
            return z.unsqueeze(-1)
        if isinstance(self.module, IJepaViT):
            return (1.0 / self.module.norm.weight).expand_as(z).unsqueeze(-1)
        return None

    def linearised(self) -> LinearisedVit | None:
        """The ViT's hand-linearised form; the MLPs have none."""
        return self._linearised

    @cached_property
    def _linearised(self) -> LinearisedVit | None:
        from minoritybench.scoring.vit.adapters import linearised_digits

        return linearised_digits(self.module) if isinstance(self.module, IJepaViT) else None

    def derivatives(self, prepared: Tensor) -> MlpProducts | None:
        """The MLPs' Jacobians at prepared inputs, written out by hand; the ViT has none."""
        return None if self._mlp is None else self._mlp.at(prepared)

    @cached_property
    def _mlp(self) -> LinearisedMlp | None:
        from minoritybench.scoring.mlp import LinearisedMlp

        if isinstance(self.module, SphereMLP | VicregMLP):
            return LinearisedMlp.of(self.module.net, unit=isinstance(self.module, SphereMLP))
        return None
