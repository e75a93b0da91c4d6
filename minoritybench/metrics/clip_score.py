"""CLIPScore: 100 times the cosine of image and prompt under CLIP, zero at least. Higher: closer to the prompt.

Reference: Hessel et al. 2021, without their factor 2.5, as torchmetrics computes it. Depends on the CLIP model above
all: values of ViT-B/16 and of ViT-L/14 do not compare. Prompts are cut at 77 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minoritybench.embedded.t2i.folders import clip_folder
from minoritybench.encoders.assets import WeightFile
from minoritybench.encoders.module import load_tensors
from minoritybench.errors import BadInputError
from minoritybench.metrics.text_image import (
    TextImageScorer,
    Values,
    check_pairs,
    first_here,
    folder_of,
    mean_score,
    projected,
)
from minoritybench.metrics.value import MetricValue
from minoritybench.microbatch import torch_threads
from minoritybench.store import sha256_file

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
TOKENIZER_FILES = ("tokenizer_config.json", "vocab.json", "merges.txt")
PROCESSOR_FILES = ("preprocessor_config.json", *TOKENIZER_FILES)


@dataclass(frozen=True)
class Backbone:
    """`find(name)` gives the weight file, with the folder's small files checked to lie beside it; `threads` are the
    torch threads that the values of a small network belong to."""

    find: Callable[[str], Path]
    threads: int | None = None


def _published(repo: str, size: str) -> Backbone:
    def find(name: str) -> Path:
        weights = first_here(name, *(WeightFile(repo, file, size) for file in WEIGHT_FILES))
        folder_of(name, weights, repo, ("config.json", *PROCESSOR_FILES))
        return weights

    return Backbone(find)


def _embedded(name: str) -> Path:
    return clip_folder() / WEIGHT_FILES[0]


MODELS = {
    "clip-b16": _published("openai/clip-vit-base-patch16", "600 MB"),
    "clip-l14": _published("openai/clip-vit-large-patch14", "1.7 GB"),
    "digits-clip": Backbone(_embedded, threads=1),
}
"""Backbones by name. Published text-to-image values near 31 fit B/16; torchmetrics' default is L/14."""
EMBEDDED = frozenset({"digits-clip"})


def clip_score(*, fake: Tensor, prompts: Sequence[str], scorer: TextImageScorer) -> MetricValue:
    """Mean CLIPScore of uint8 images `(M, 3, H, W)` with a prompt each; `scorer` comes from `open_clip_score`."""
    return mean_score(scorer, fake, prompts)


def find_clip(name: str) -> Path:
    """The weight file of a backbone, not opened. Errors: as `open_clip_score`."""
    if name not in MODELS:
        raise BadInputError(f"unknown CLIPScore model {name!r}; known: {', '.join(MODELS)}")
    return MODELS[name].find(name)


def open_clip_score(name: str = "clip-b16", device: str = "cpu") -> ClipScorer:
    """The scorer of that backbone. Errors: unknown name exits 2, absent files exit 4; nothing is downloaded."""
    from transformers import CLIPProcessor

    weights = find_clip(name)
    model = clip_architecture(weights.parent)
    digest = load_tensors(model, weights, name, without_positions)
    processor = CLIPProcessor.from_pretrained(weights.parent, local_files_only=True)
    return ClipScorer(name, model.to(device), processor, digest, MODELS[name].threads)


def embedded_digest(name: str) -> str | None:
    """SHA-256 of the weights of a shipped backbone; None for one that is not embedded."""
    return sha256_file(MODELS[name].find(name)) if name in EMBEDDED else None


def clip_architecture(folder: Any) -> nn.Module:
    """The transformers model of a folder's config.json, in evaluation mode, weights not yet loaded."""
    from transformers import CLIPConfig, CLIPModel

    model: nn.Module = CLIPModel(CLIPConfig.from_pretrained(folder, local_files_only=True))
    return model.eval().requires_grad_(False)


def without_positions(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict without the row numbers that older versions of transformers saved."""
    return {key: value for key, value in tensors.items() if not key.endswith("position_ids")}


class ClipScorer:
    """torchmetrics' CLIPScore, one image at a time: it gives means only, and so a value depends on no other image."""

    def __init__(
        self, name: str, model: nn.Module, processor: Any, weights_sha256: str | None, threads: int | None = None
    ) -> None:
        self.name, self.weights_sha256, self.threads = name, weights_sha256, threads
        self._wrapped, self._processor = _Unwrapped(model), processor
        self._device = next(model.parameters()).device

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Values:
        """CLIPScore `(B,)` in `[0, 100]`."""
        from torchmetrics.functional.multimodal import clip_score as published

        check_pairs(images, prompts)
        loaded: Any = (self._wrapped, self._processor)
        score = partial(published, model_name_or_path=lambda: loaded)
        with torch.no_grad(), torch_threads(self.threads):
            values = [
                float(score(image.to(self._device), prompt)) for image, prompt in zip(images, prompts, strict=True)
            ]
        return np.array(values)


class _Unwrapped(nn.Module):
    """CLIP whose features are tensors: those of transformers 5 are objects, which torchmetrics 1.9 cannot normalise."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def get_image_features(self, pixels: Tensor) -> Tensor:
        return projected(self.model.get_image_features(pixels))

    def get_text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        return projected(self.model.get_text_features(ids, mask))
