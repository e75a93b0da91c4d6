"""Stable Diffusion 1.5 and SDXL as diffusers saves them, with the published blocks and a few channels: random weights.

Latents are 4x8x8, images 64 px; prompts take up to 14 tokens, a byte each.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

TOKENS = 16
"""Length of an encoded prompt, with its first and last token."""
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
_NOISE = {**BETAS, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "prediction_type": "epsilon"}
_TEXT = {
    "vocab_size": 514,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": TOKENS,
    "bos_token_id": 0,
    "eos_token_id": 2,  # as the published configurations have it: pooled at the largest id
    "pad_token_id": 1,
}


def tiny_sd(folder: Path) -> Path:
    """A StableDiffusionPipeline in a folder: four levels, cross-attention in three of them."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel

    _lively(encoder := CLIPTextModel(CLIPTextConfig(**_TEXT)), 1)
    StableDiffusionPipeline(
        vae=_vae(0.18215, 2),
        text_encoder=encoder,
        tokenizer=tiny_tokenizer(folder),
        unet=tiny_unet(),
        scheduler=DDIMScheduler(**_NOISE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def tiny_sdxl(folder: Path) -> Path:
    """A StableDiffusionXLPipeline in a folder: three levels, two text encoders of different widths."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    second_text = {**_TEXT, "hidden_size": 40, "projection_dim": 40, "hidden_act": "gelu"}
    _lively(first := CLIPTextModel(CLIPTextConfig(**_TEXT)), 3)
    _lively(second := CLIPTextModelWithProjection(CLIPTextConfig(**second_text)), 4)
    StableDiffusionXLPipeline(
        vae=_vae(0.13025, 5, force_upcast=True),
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=tiny_tokenizer(folder),
        tokenizer_2=tiny_tokenizer(folder, pad_token="!"),
        unet=_unet_xl(),
        scheduler=EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading"),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def tiny_tokenizer(folder: Path, **special: str) -> Any:
    """A byte a token, alone or at the end of a word, no merges. Its vocabulary is written beside `folder`."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary, merges = folder.parent / "vocab.json", folder.parent / "merges.txt"
    folder.parent.mkdir(parents=True, exist_ok=True)
    vocabulary.write_text(json.dumps({name: number for number, name in enumerate(names)}))
    merges.write_text("#version: 0.2\n")
    return CLIPTokenizer(vocab=str(vocabulary), merges=str(merges), model_max_length=TOKENS, **special)


def tiny_unet() -> Any:
    """The U-Net of `tiny_sd`."""
    from diffusers import UNet2DConditionModel

    crossed = ["CrossAttnDownBlock2D"] * 3
    network = UNet2DConditionModel(
        sample_size=8,
        down_block_types=[*crossed, "DownBlock2D"],
        up_block_types=["UpBlock2D", *(name.replace("Down", "Up") for name in crossed)],
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=2,
        attention_head_dim=2,
        cross_attention_dim=32,
        norm_num_groups=4,
    )
    return _lively(network, 0)


def _unet_xl() -> Any:
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel(
        sample_size=8,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        block_out_channels=(8, 16, 16),
        layers_per_block=2,
        transformer_layers_per_block=(1, 2, 2),
        attention_head_dim=(1, 2, 2),
        cross_attention_dim=32 + 40,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 40,
        norm_num_groups=4,
    )
    return _lively(network, 6)


def _vae(scaling_factor: float, seed: int, force_upcast: bool = False) -> Any:
    from diffusers import AutoencoderKL

    network = AutoencoderKL(
        sample_size=64,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=(4, 8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=scaling_factor,
        force_upcast=force_upcast,
    )
    return _lively(network, seed)


def _lively(network: nn.Module, seed: int) -> nn.Module:
    """Seeded weights of a size at which every input tells: PyTorch's own would leave prompts almost without effect."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "embedding" in name and parameter.ndim == 2 and "time" not in name and "add_" not in name:
            values = 0.4 * noise  # token and position tables
        elif parameter.ndim > 1:
            values = noise / parameter[0].numel() ** 0.5
        else:
            values = parameter.detach() + 0.1 * noise  # biases and the scales of norms
        parameter.data.copy_(values)
    return network.eval()
