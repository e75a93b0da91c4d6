"""Pretrained encoders as feature spaces: DINOv2, CLIP and whatever timm has.

The networks are those that score (`minoritybench.encoders.vision`); the preprocessing is not: photographs are squashed
to the network's size by Pillow's bicubic, as Stein et al. 2023 prepare them for FD-DINOv2. DINOv2 without registers is
run by transformers, whose position grid differs from the original repository's by its rule of resampling.
"""

from __future__ import annotations

from minoritybench.encoders import load_encoder
from minoritybench.encoders.module import ModuleEncoder
from minoritybench.features.network import NetworkExtractor

_CLIP = {"clip-b16": "clip:ViT-B-16-quickgelu/openai", "clip-l14": "clip:ViT-L-14-quickgelu/openai"}


def load_vision(name: str, device: str = "cpu") -> NetworkExtractor:
    """`dinov2-*` (class token after the final norm), `clip-b16`, `clip-l14`, `metaclip-b16`, `clip:*` (projected, not
    normalised), `timm:*` (pooled, without the head)."""
    encoder = load_encoder(_CLIP.get(name, name), device=device)
    assert isinstance(encoder, ModuleEncoder)
    encoder.preprocess = f"pil-bicubic-{encoder.input_size}"
    return NetworkExtractor(
        name,
        lambda pixels: {"embedding": encoder(pixels)},
        prepare=encoder.prepare,
        preprocess=encoder.preprocess,
        layers=("embedding",),
        weights_sha256=encoder.weights_sha256,
        device=device,
    )
