"""ImageReward: a BLIP that reads an image and its prompt together, tuned on people's rankings. Higher: preferred.

Reference: Xu et al. 2023. The published weights run in transformers' BLIP vision and text models, for the package
`image-reward` pins old versions of everything. Values are standardised by the authors' constants, near 0 on average;
prompts are cut at 35 tokens.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minoritybench.encoders.assets import WeightFile
from minoritybench.encoders.module import CLIP, load_tensors
from minoritybench.metrics.text_image import TextImageScorer, Values, check_pairs, first_here, mean_score
from minoritybench.metrics.value import MetricValue
from minoritybench.microbatch import map_micro_batches

NAME = "imagereward"
MEAN, STD = 0.16717362830052426, 1.0333394966054072
_TOKENS = 35
_MICRO_BATCH = 4
_REPOS = ("zai-org/ImageReward", "THUDM/ImageReward")
_VOCABULARY = WeightFile("google-bert/bert-base-uncased", "vocab.txt", "232 kB")

_VISION = (  # the published names and transformers', in this order
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.", "encoder.layers."),
    (r"^norm\.", "post_layernorm."),
)
_UNUSED = re.compile(r"^blip\.(vision_proj|text_proj)\.|\.position_ids$")


@dataclass(frozen=True)
class BlipSize:
    """Widths, depths and heads of both halves; the defaults are the published model's (446.67 M parameters with its two
    unused projections)."""

    vision_width: int = 1024
    vision_depth: int = 24
    vision_heads: int = 16
    image_size: int = 224
    text_width: int = 768
    text_depth: int = 12
    text_heads: int = 12
    vocabulary: int = 30524


def image_reward(*, fake: Tensor, prompts: Sequence[str], scorer: TextImageScorer) -> MetricValue:
    """Mean ImageReward of uint8 images `(M, 3, H, W)` with a prompt each; `scorer` comes from `open_image_reward`."""
    return mean_score(scorer, fake, prompts)


def find_image_reward() -> tuple[Path, Path]:
    """The weight file and the vocabulary, not opened; exit 4 where one is absent."""
    weights = first_here(NAME, *(WeightFile(repo, "ImageReward.pt", "1.8 GB") for repo in _REPOS))
    return weights, first_here(NAME, _VOCABULARY)


def open_image_reward(device: str = "cpu") -> ImageRewardScorer:
    """The published model. Error: absent files exit 4; nothing is downloaded."""
    from transformers import BertTokenizer

    weights, vocabulary = find_image_reward()
    model = RewardModel(BlipSize())
    digest = load_tensors(model, weights, NAME, rename)
    tokenizer = BertTokenizer(vocab=str(vocabulary), do_lower_case=True)
    return ImageRewardScorer(model.to(device), tokenizer, digest)


def rename(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict with the names of `RewardModel`; what only training used is dropped."""
    return {renamed(key): value for key, value in tensors.items() if not _UNUSED.search(key)}


def renamed(key: str) -> str:
    """One published name; unknown ones stay as they are, and strict loading then tells of them."""
    if key.startswith("blip.visual_encoder."):
        name = key.removeprefix("blip.visual_encoder.")
        for pattern, ours in _VISION:
            name = re.sub(pattern, ours, name)
        return f"vision.{name}"
    if key.startswith("blip.text_encoder."):
        return f"text.{key.removeprefix('blip.text_encoder.')}"
    return re.sub(r"^mlp\.layers\.", "head.", key)


class RewardModel(nn.Module):
    """ViT tokens of the image, BERT over the prompt with cross-attention to them, a linear head on its first token."""

    def __init__(self, size: BlipSize) -> None:
        from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

        super().__init__()
        self.size = size
        self.vision = BlipVisionModel(
            BlipVisionConfig(
                hidden_size=size.vision_width,
                intermediate_size=4 * size.vision_width,
                num_hidden_layers=size.vision_depth,
                num_attention_heads=size.vision_heads,
                patch_size=16,
                image_size=size.image_size,
                layer_norm_eps=1e-6,
            )
        )
        self.text = BlipTextModel(
            BlipTextConfig(
                vocab_size=size.vocabulary,
                hidden_size=size.text_width,
                encoder_hidden_size=size.vision_width,
                num_hidden_layers=size.text_depth,
                num_attention_heads=size.text_heads,
                intermediate_size=4 * size.text_width,
                layer_norm_eps=1e-12,
                is_decoder=True,  # which is what gives its layers cross-attention
            ),
            add_pooling_layer=False,
        )
        widths = [size.text_width, 1024, 128, 64, 16, 1]
        linear = [nn.Linear(wide, narrow) for wide, narrow in itertools.pairwise(widths)]
        dropped = [module for layer in linear[:3] for module in (layer, nn.Dropout())]
        self.head = nn.Sequential(*dropped, *linear[3:])
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Standardised rewards `(B,)` of normalised pixels `(B, 3, S, S)` and tokens `(B, L)`."""
        image = self.vision(pixel_values=pixels).last_hidden_state
        # Not as a decoder: every token of the prompt sees every other.
        tokens = self.text(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=image,
            encoder_attention_mask=torch.ones(image.shape[:2], dtype=torch.long, device=image.device),
            is_decoder=False,
        ).last_hidden_state
        return (self.head(tokens[:, 0]).squeeze(1) - MEAN) / STD


class ImageRewardScorer:
    """The model in float32, in fixed micro-batches."""

    name = NAME
    threads: int | None = None

    def __init__(self, model: RewardModel, tokenizer: Any, weights_sha256: str | None) -> None:
        self.weights_sha256 = weights_sha256
        self._model, self._tokenizer = model, tokenizer
        self._device = next(model.parameters()).device

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Values:
        """ImageReward `(B,)`."""
        check_pairs(images, prompts)
        tokens = self._tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=_TOKENS, return_tensors="pt"
        )
        ids, mask = tokens["input_ids"], tokens["attention_mask"]

        def score(part: Tensor) -> Tensor:
            chosen = part.flatten()
            pixels = preprocess(images[chosen], self._model.size.image_size).to(self._device)
            return self._model(pixels, ids[chosen].to(self._device), mask[chosen].to(self._device))

        with torch.no_grad():
            rows = torch.arange(len(images)).unsqueeze(1)
            return map_micro_batches(score, rows, _MICRO_BATCH).double().cpu().numpy()


def preprocess(images: Tensor, size: int) -> Tensor:
    """uint8 `(B, 3, H, W)` as the authors prepare them: Pillow's bicubic to a shortest side of `size`, centre crop,
    CLIP's statistics."""
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToPILImage, ToTensor

    steps = Compose(
        [ToPILImage(), Resize(size, InterpolationMode.BICUBIC), CenterCrop(size), ToTensor(), Normalize(*CLIP)]
    )
    return torch.stack([steps(image) for image in images.cpu()])
