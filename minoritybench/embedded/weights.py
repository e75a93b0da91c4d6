"""Where the embedded weights lie and how to turn them into frozen modules."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file as load_tensors
from torch import nn

from minoritybench.embedded.models import DigitsClassifier, DigitsDenoiser, IJepaViT, SphereMLP, VicregMLP
from minoritybench.errors import BadInputError, MissingAssetError
from minoritybench.store import sha256_file

WEIGHTS_VARIABLE = "MINORITYBENCH_EMBEDDED_WEIGHTS"
PCA_NAME = "digits-pca20"

BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "digits-jepa": SphereMLP,
    "digits-jepa-b": SphereMLP,
    "digits-ijepa": IJepaViT,
    "digits-vicreg": VicregMLP,
    "digits-ddpm": DigitsDenoiser,
    "digits-classifier": DigitsClassifier,
}
T2I_BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "digits16-jepa": partial(SphereMLP, 16),
    "digits16-jepa-b": partial(SphereMLP, 16),
    "digits16-ijepa": partial(IJepaViT, 16),
    "digits16-classifier": partial(DigitsClassifier, 16),
}
SHIPPED_GENERATORS = frozenset({"digits-ddpm", "digits-sd"})
"""Generators of the registry that are part of the package; both draw with labels only where asked to."""


def weights_dir() -> Path:
    """The folder of the shipped weights, or what the environment variable says."""
    override = os.environ.get(WEIGHTS_VARIABLE)
    return Path(override) if override else Path(__file__).parent / "weights"


def t2i_dir() -> Path:
    """The folder of the text-to-image benchmark: ``t2i`` in what the environment variable says, or the shipped one."""
    override = os.environ.get(WEIGHTS_VARIABLE)
    return (Path(override) if override else Path(__file__).parent) / "t2i"


def weights_path(name: str) -> Path:
    """The safetensors file of one embedded model (or of ``digits-pca20``); it may not exist yet."""
    if name != PCA_NAME:
        _builder(name)
    folder = t2i_dir() / "weights" if name in T2I_BUILDERS else weights_dir()
    return folder / f"{name}.safetensors"


def shipped_digest(name: str) -> str | None:
    """SHA-256 of an embedded model's file; None for a model that is not embedded."""
    return sha256_file(shipped_file(name)) if name in (*BUILDERS, *T2I_BUILDERS, PCA_NAME) else None


def load_module(name: str) -> nn.Module:
    """The trained network: evaluation mode, frozen, float32 (stored as float16)."""
    return load_file_into(name, shipped_file(name))


def load_file_into(name: str, path: Path) -> nn.Module:
    """The named network with the weights of a safetensors file, as ``load_module`` returns it.

    A file that is not safetensors, or holds another network's tensors, is a one-line error that names it.
    """
    module = _builder(name)()
    try:
        module.load_state_dict({key: value.float() for key, value in load_tensors(path).items()})
    except (SafetensorError, RuntimeError) as error:
        raise BadInputError(f"{path} does not hold the weights of {name}: {str(error).splitlines()[0]}") from error
    return module.eval().requires_grad_(False)


def random_module(name: str, seed: int) -> nn.Module:
    """The same network with seeded random weights, no layer at zero; frozen, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _builder(name)()
        for parameter in module.parameters():
            # PyTorch starts LayerNorm biases at zero; a random network should have nothing at zero
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)
    return module.eval().requires_grad_(False)


def load_pca() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean ``(64,)`` and components ``(20, 64)`` of the training pixels in ``[-1, 1]``."""
    path = shipped_file(PCA_NAME)
    try:
        arrays = load_arrays(path)
        return arrays["mean"], arrays["components"]
    except (SafetensorError, KeyError) as error:
        raise BadInputError(f"{path} does not hold the principal components: {error}") from error


def _builder(name: str) -> Callable[[], nn.Module]:
    builders = BUILDERS | T2I_BUILDERS
    if name not in builders:
        raise ValueError(f"unknown embedded model {name!r}: one of {', '.join(builders)}")
    return builders[name]


def shipped_file(name: str) -> Path:
    """`weights_path`, checked to be there; exit 4 with the command that rebuilds it where it is not."""
    path = weights_path(name)
    if not path.is_file():
        command = f"minoritybench.embedded.train --out {path.parent}"
        if name in T2I_BUILDERS:
            command = f"minoritybench.embedded.t2i.train --only {name} --out {path.parent.parent}"
        raise MissingAssetError(
            f"embedded weights are missing: {path} does not exist; `python -m {command}` rebuilds it there"
        )
    return path
