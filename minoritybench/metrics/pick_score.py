"""PickScore: a CLIP ViT-H/14 tuned on people's choices between images of one prompt. Higher: preferred.

Reference: Kirstain et al. 2023. The value is the logit `exp(logit_scale) cos(text, image)`, some 20 to 23 for diffusion
models, without a softmax over images. Prompts are cut at 77 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minoritybench.encoders.assets import WeightFile
from minoritybench.encoders.module import load_tensors
from minoritybench.metrics.clip_score import (
    PROCESSOR_FILES,
    TOKENIZER_FILES,
    WEIGHT_FILES,
    clip_architecture,
    without_positions,
)
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
from minoritybench.microbatch import map_micro_batches

NAME = "pickscore"
REPO, SIZE = "yuvalkirstain/PickScore_v1", "3.9 GB"
PROCESSOR_REPO = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
_TOKENS = 77
_MICRO_BATCH = 4


def pick_score(*, fake: Tensor, prompts: Sequence[str], scorer: TextImageScorer) -> MetricValue:
    """Mean PickScore of uint8 images `(M, 3, H, W)` with a prompt each; `scorer` comes from `open_pick_score`."""
    return mean_score(scorer, fake, prompts)


def find_pick_score() -> tuple[Path, Path]:
    """The weight file and the processor's folder, not opened; exit 4 where files are absent."""
    weights = first_here(NAME, *(WeightFile(REPO, file, SIZE) for file in WEIGHT_FILES))
    folder_of(NAME, weights, REPO, ["config.json"])
    small = first_here(NAME, WeightFile(PROCESSOR_REPO, PROCESSOR_FILES[0], "1 kB"))
    return weights, folder_of(NAME, small, PROCESSOR_REPO, TOKENIZER_FILES)


def open_pick_score(device: str = "cpu") -> PickScorer:
    """The published model. Error: absent files exit 4; nothing is downloaded."""
    from transformers import CLIPImageProcessor, CLIPTokenizer

    weights, processor = find_pick_score()
    model = clip_architecture(weights.parent)
    digest = load_tensors(model, weights, NAME, without_positions)
    return PickScorer(
        model.to(device),
        CLIPImageProcessor.from_pretrained(processor, local_files_only=True),
        CLIPTokenizer.from_pretrained(processor, local_files_only=True),
        digest,
    )


class PickScorer:
    """transformers' CLIPModel in float32, in fixed micro-batches."""

    name = NAME
    threads: int | None = None

    def __init__(self, model: nn.Module, images: Any, tokenizer: Any, weights_sha256: str | None) -> None:
        self.weights_sha256 = weights_sha256
        self._model: Any = model
        self._images, self._tokenizer = images, tokenizer
        self._device = next(model.parameters()).device

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Values:
        """PickScore `(B,)`."""
        check_pairs(images, prompts)
        tokens = self._tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=_TOKENS, return_tensors="pt"
        )
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        rows = torch.arange(len(images)).unsqueeze(1)

        def score(part: Tensor) -> Tensor:
            chosen = part.flatten()
            return self._score(images[chosen], ids[chosen], mask[chosen])

        with torch.no_grad():
            return map_micro_batches(score, rows, _MICRO_BATCH).double().cpu().numpy()

    def _score(self, images: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        pixels = self._images(images=list(images), return_tensors="pt")["pixel_values"].to(self._device)
        image = projected(self._model.get_image_features(pixel_values=pixels))
        text = projected(
            self._model.get_text_features(input_ids=ids.to(self._device), attention_mask=mask.to(self._device))
        )
        return self._model.logit_scale.exp() * torch.cosine_similarity(image, text, dim=1)
