"""The published ADM networks: configuration, noise schedule and file of each.

Attention order, noise schedule and the number of heads cannot be read off a state dict: the wrong ones load and sample
garbage. They are the published model flags (openai/guided-diffusion README; CelebA's from the SGMS README). The
upsampler and the noisy classifiers name no attention order there: theirs is the code's default, `old`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minoritybench.assets import cache_folder
from minoritybench.diffusion.adm.config import AdmConfig, ClassifierConfig
from minoritybench.errors import MissingAssetError

_OPENAI = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021"
_FOLDER = "adm"


@dataclass(frozen=True)
class PublishedFile:
    """A checkpoint's name in our cache, its size in float32 and the address it is fetched from, with a remark."""

    file: str
    size: str
    source: str
    remark: str = ""


@dataclass(frozen=True)
class UNetPreset:
    """`schedule` is the training chain's; `micro_batch` images are computed at a time."""

    config: AdmConfig
    schedule: str
    file: PublishedFile
    micro_batch: int


@dataclass(frozen=True)
class ClassifierPreset:
    """A noisy classifier of 1000 ImageNet classes."""

    config: ClassifierConfig
    file: PublishedFile


def _openai(file: str, size: str) -> PublishedFile:
    return PublishedFile(file, size, f"{_OPENAI}/{file}")


_LARGE: dict[str, Any] = {"image_size": 256, "res_blocks": 2, "channel_mult": (1, 1, 2, 2, 4, 4)}
_IMAGENET256 = AdmConfig(**_LARGE, channels=256, attention_order="old")
_CELEBA = PublishedFile(
    "celeba64.pt",
    "1.2 GB",
    "https://drive.google.com/file/d/11zaWowtEvU_rmAXnEe66x9tXzOdNbQrs",
    "the file linked from the README of soobin-um/sg-minority, under whatever name it comes, saved as celeba64.pt",
)


def _lsun(scene: str) -> UNetPreset:
    config = AdmConfig(**_LARGE, channels=256, attention_order="old", dropout=0.1)
    return UNetPreset(config, "linear", _openai(f"lsun_{scene}.pt", "2.2 GB"), 4)


UPSAMPLER = "adm-upsampler-64-256"

UNETS = {
    "adm-celeba64": UNetPreset(AdmConfig(image_size=64, dropout=0.1), "cosine", _CELEBA, 16),
    "adm-imagenet64": UNetPreset(
        AdmConfig(image_size=64, num_classes=1000, dropout=0.1),
        "cosine",
        _openai("64x64_diffusion.pt", "1.2 GB"),
        16,
    ),
    UPSAMPLER: UNetPreset(
        AdmConfig(**_LARGE, in_channels=6, heads=4, num_classes=1000, attention_order="old"),
        "linear",
        _openai("64_256_upsampler.pt", "1.2 GB"),
        4,
    ),
    "adm-imagenet256": UNetPreset(
        AdmConfig(**_LARGE, channels=256, num_classes=1000, attention_order="old"),
        "linear",
        _openai("256x256_diffusion.pt", "2.2 GB"),
        4,
    ),
    "adm-imagenet256-uncond": UNetPreset(_IMAGENET256, "linear", _openai("256x256_diffusion_uncond.pt", "2.2 GB"), 4),
    "adm-lsun-bedroom": _lsun("bedroom"),
    "adm-lsun-cat": _lsun("cat"),
    "adm-lsun-horse": _lsun("horse"),
}

CLASSIFIERS = {
    "adm-classifier-64": ClassifierPreset(
        ClassifierConfig(image_size=64, res_blocks=4), _openai("64x64_classifier.pt", "0.3 GB")
    ),
    "adm-classifier-256": ClassifierPreset(ClassifierConfig(**_LARGE), _openai("256x256_classifier.pt", "0.2 GB")),
}


def locate(name: str, published: PublishedFile) -> Path:
    """The checkpoint in our cache folder, as published or converted to `.safetensors` under the same stem; nothing is
    downloaded. Errors: absent files exit 4 with where to get them and where to put them."""
    own = cache_folder() / _FOLDER / published.file
    converted = own.with_suffix(".safetensors")
    if converted.is_file():
        return converted
    if not own.is_file():
        remark = f" ({published.remark})" if published.remark else ""
        raise MissingAssetError(
            f"{name}: weights {published.file} ({published.size}) are not here; fetch {published.source}{remark}"
            f" to {own}"
        )
    return own
