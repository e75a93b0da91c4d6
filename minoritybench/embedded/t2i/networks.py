"""Shapes of the tiny Stable Diffusion and of the tiny CLIP. Every width is a multiple of 16, as in `models.py`."""

from __future__ import annotations

from typing import Any

from minoritybench.embedded.t2i.tokenizer import MAX_LENGTH, vocabulary_size

IMAGE_SIZE = 16
LATENT_SIZE = 8
LATENT_CHANNELS = 4
TEXT_WIDTH = 64
CLIP_WIDTH = 64
CLIP_PROJECTION = 32
CLIP_MEAN_AND_STD = 0.5

# As Stable Diffusion 1.5's scheduler_config.json.
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
}


def build_vae() -> Any:
    """`AutoencoderKL`: `(B, 3, 16, 16)` in `[-1, 1]` to `(B, 4, 8, 8)` and back."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
    )


def build_unet() -> Any:
    """`UNet2DConditionModel` on `(B, 4, 8, 8)`, with cross-attention at the 4x4 level, four heads of 16."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # despite its name the number of heads, as in Stable Diffusion 1
        norm_num_groups=16,
    )


def text_shape() -> dict[str, Any]:
    """What the text encoder of the pipeline and the text tower of CLIP have in common."""
    size = vocabulary_size()
    return {
        "vocab_size": size,
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 4 * TEXT_WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_LENGTH,
        "bos_token_id": size - 2,
        "eos_token_id": size - 1,
        "pad_token_id": size - 1,
    }


def build_text_encoder() -> Any:
    """`CLIPTextModel`: 16 token ids to `(B, 16, 64)`."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**text_shape()))


def build_clip() -> Any:
    """`CLIPModel`: a ViT on 16 patches of 4x4 pixels and a text tower, joined in 32 dimensions."""
    from transformers import CLIPConfig, CLIPModel

    vision = {
        "hidden_size": CLIP_WIDTH,
        "intermediate_size": 4 * CLIP_WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": 4,
    }
    return CLIPModel(CLIPConfig(text_config=text_shape(), vision_config=vision, projection_dim=CLIP_PROJECTION))
