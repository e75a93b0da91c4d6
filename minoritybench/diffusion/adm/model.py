"""ADM networks as backends of the sampling loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minoritybench.diffusion.adm.networks import AdmUNet, NoisyClassifier
from minoritybench.diffusion.adm.presets import CLASSIFIERS, UNETS, locate
from minoritybench.diffusion.adm.weights import load_network
from minoritybench.errors import BadInputError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class AdmModel:
    """A U-Net in RGB space `[-1, 1]`, `(3, size, size)`, frozen.

    `dtype` bfloat16 computes the convolutions and attention in it, the rest in float32. `compiled` runs the network
    through torch.compile. Neither belongs to what a result is allowed to depend on: `tests/diffusion/test_adm_model.py`
    states how far they may move it. With a gradient asked for, each stage is recomputed in the backward pass.
    """

    train_steps = 1000
    threads: int | None = None

    def __init__(
        self,
        name: str,
        network: AdmUNet,
        *,
        schedule: str,
        weights_sha256: str,
        micro_batch: int,
        device: str = "cpu",
        dtype: str = "float32",
        compiled: bool = False,
    ) -> None:
        self.name, self.schedule, self.weights_sha256 = name, schedule, weights_sha256
        self.micro_batch, self.dtype = micro_batch, dtype
        config = network.config
        self.state_shape: tuple[int, ...] = (3, config.image_size, config.image_size)
        self.num_classes = config.num_classes
        self.requires_labels = config.num_classes is not None
        network.convert_torso(precision(name, dtype))
        network.checkpointing = True
        self._network = network.eval().requires_grad_(False).to(device)
        self._forward: Callable[..., Any] = torch.compile(self._network) if compiled else self._network

    def predict(self, x_t: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        """Noise and learned-range variance fraction, float32 `(B, 6, size, size)`; differentiable in `x_t` (of an
        upsampler 6 channels, the enlarged image after x_t). Errors: a conditional network without labels exits 2."""
        if self.requires_labels and labels is None:
            raise BadInputError(f"{self.name} is class-conditional: it needs labels (--class-conditional)")
        output: Tensor = self._forward(x_t, timestep, labels)
        return output.float()

    def decode(self, x0: Tensor) -> Tensor:
        """`[-1, 1]` to nominal `[0, 1]`, not clamped. The published code then truncates to 8 bits, `to_pixels` rounds:
        half a level brighter on average."""
        return (x0 + 1) / 2


def precision(name: str, dtype: str) -> torch.dtype:
    """The torso's type; only float32 and bfloat16 are offered."""
    if dtype not in PRECISIONS:
        raise BadInputError(f"--dtype {dtype}: {name} runs in {' or '.join(PRECISIONS)}")
    return PRECISIONS[dtype]


def load_adm(name: str, *, device: str = "cpu", dtype: str = "float32", compile: bool = False) -> AdmModel:
    """A published U-Net by its name in `presets.UNETS`. Errors: absent weights exit 4."""
    preset = UNETS[name]
    precision(name, dtype)
    network, digest = load_network(preset.config, locate(name, preset.file), name)
    assert isinstance(network, AdmUNet)
    return AdmModel(
        name,
        network,
        schedule=preset.schedule,
        weights_sha256=digest,
        micro_batch=preset.micro_batch,
        device=device,
        dtype=dtype,
        compiled=compile,
    )


def find_weights(name: str) -> Path:
    """The checkpoint of a U-Net in `presets.UNETS`, not opened; exit 4 where it is not here."""
    return locate(name, UNETS[name].file)


def load_classifier(name: str, *, device: str = "cpu") -> tuple[NoisyClassifier, str]:
    """A published noisy classifier by its name in `presets.CLASSIFIERS`, frozen, and its file's SHA-256. Errors: absent
    weights exit 4."""
    preset = CLASSIFIERS[name]
    network, digest = load_network(preset.config, locate(name, preset.file), name)
    assert isinstance(network, NoisyClassifier)
    return network.to(device), digest
