"""State dicts of ADM networks: loaded strictly with a readable difference, saved with the configuration in the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from minoritybench.assets import misfit, read_tensors
from minoritybench.diffusion.adm.config import AdmConfig, ClassifierConfig
from minoritybench.diffusion.adm.networks import AdmUNet, NoisyClassifier
from minoritybench.diffusion.adm.presets import CLASSIFIERS, UNETS
from minoritybench.errors import BadInputError
from minoritybench.store import atomic_path, canonical_json, sha256_file

Network = AdmUNet | NoisyClassifier
_CONFIG = "minoritybench.config"
_FIRST, _LABELS = "input_blocks.0.0.weight", "label_emb.weight"


def build(config: AdmConfig | ClassifierConfig) -> Network:
    """The network with fresh weights: residual branches and output at zero, as training starts."""
    return AdmUNet(config) if isinstance(config, AdmConfig) else NoisyClassifier(config)


def skeleton(config: AdmConfig | ClassifierConfig) -> Network:
    """The network on the meta device: shapes without memory."""
    with torch.device("meta"):
        return build(config)


def load_network(config: AdmConfig | ClassifierConfig, path: Path, name: str) -> tuple[Network, str]:
    """The frozen float32 network of a `.pt` or `.safetensors` file, in evaluation mode, and the file's SHA-256.

    Errors: a file of another network is one line saying how it differs and, if it is one, which published network it is
    (exit 2). Files that `save_network` wrote are also held against what shapes do not tell, such as attention order.
    """
    network = skeleton(config)
    tensors = read_tensors(path, name)
    expected = network.state_dict()
    fault = misfit(expected, tensors)
    if fault is not None:
        known = _published(tensors)
        hints = [*_hints(expected, tensors), *([f"it fits {known}"] if known else [])]
        raise BadInputError("; ".join([f"{path} does not hold the weights of {name}: it {fault}", *hints]))
    _check_own_config(config, path, name)
    network.load_state_dict({key: value.float() for key, value in tensors.items()}, assign=True)
    return network.eval().requires_grad_(False), sha256_file(path)


def save_network(network: Network, path: Path) -> str:
    """Write a `.safetensors` file atomically, configuration included; returns its SHA-256."""
    from safetensors.torch import save_file

    if path.suffix != ".safetensors":
        raise BadInputError(f"{path}: networks are saved as .safetensors")
    tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    with atomic_path(path) as part:
        save_file(tensors, part, metadata={_CONFIG: canonical_json(asdict(_config_of(network)))})
    return sha256_file(path)


def _config_of(network: Network) -> AdmConfig | ClassifierConfig:
    return network.config


def _check_own_config(config: AdmConfig | ClassifierConfig, path: Path, name: str) -> None:
    """Against the configuration in a file of ours; published files have none. Dropout changes no result."""
    if path.suffix != ".safetensors":
        return
    from safetensors import safe_open

    with safe_open(path, framework="pt") as handle:
        text = (handle.metadata() or {}).get(_CONFIG)
    if text is None:
        return
    saved = json.loads(text)
    asked = json.loads(canonical_json(asdict(config)))  # tuples as the lists they become in a file
    different = [key for key in asked if key != "dropout" and saved.get(key) != asked[key]]
    if different:
        told = ", ".join(f"{key} {saved.get(key)!r} for {asked[key]!r}" for key in different)
        raise BadInputError(f"{path} does not hold the weights of {name}: it was saved with {told}")


def _hints(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """What the usual mistakes look like in the keys."""
    hints = []
    if (_LABELS in expected) != (_LABELS in found):
        theirs, ours = ("class-conditional" if _LABELS in keys else "unconditional" for keys in (found, expected))
        hints.append(f"the file is {theirs} ({_LABELS}), this network is {ours}")
    if _FIRST in found and _FIRST in expected and found[_FIRST].shape[1:] != expected[_FIRST].shape[1:]:
        hints.append(f"the file's network takes {found[_FIRST].shape[1]} channels (6: an upsampler)")
    if _decodes(expected) != _decodes(found):
        hints.append("one is a U-Net, the other a classifier")
    elif (stages := _stages(found)) != _stages(expected) and stages:
        hints.append(
            f"the file has {stages} input blocks, not {_stages(expected)}: another depth (64x64_classifier.pt has 4"
            " residual blocks a level, 256x256_classifier.pt 2)"
        )
    return hints


def _decodes(tensors: Mapping[str, Tensor]) -> bool:
    return any(key.startswith("output_blocks.") for key in tensors)


def _stages(tensors: Mapping[str, Tensor]) -> int:
    return len({key.split(".")[1] for key in tensors if key.startswith("input_blocks.")})


def _starts_like(config: AdmConfig | ClassifierConfig, tensors: Mapping[str, Tensor]) -> bool:
    return _FIRST in tensors and tensors[_FIRST].shape[:2] == (config.channels, config.in_channels)


def _published(tensors: Mapping[str, Tensor]) -> str | None:
    """The published networks that these tensors would fit."""
    published: dict[str, AdmConfig | ClassifierConfig] = {name: preset.config for name, preset in UNETS.items()}
    published |= {name: preset.config for name, preset in CLASSIFIERS.items()}
    fits = [
        name
        for name, config in published.items()
        if _starts_like(config, tensors) and misfit(skeleton(config).state_dict(), tensors) is None
    ]
    return " and ".join(fits) or None
