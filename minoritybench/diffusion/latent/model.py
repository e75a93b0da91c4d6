"""Stable Diffusion and SDXL as the sampling loop sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minoritybench.diffusion.latent.chain import read_chain
from minoritybench.diffusion.latent.prompts import POOLED, PromptEncoder, TextTower
from minoritybench.diffusion.schedule import Schedule
from minoritybench.diffusion.text import TextCondition
from minoritybench.errors import BadInputError
from minoritybench.records import TextSpec

_PIXELS_AT_ONCE = {"cpu": 16 * 64 * 64, "cuda": 4 * 512 * 512}
_LARGEST_BATCH = 32
_LARGE_SIDE = 256
"""From this image side on, memory matters more than time: checkpointed gradients, images decoded one by one."""
_FEW_WEIGHTS = 20_000_000


@dataclass(frozen=True)
class Parts:
    """Components of a diffusers pipeline. `towers` holds two text encoders for SDXL, whose unconditional embedding is
    zero where `zeros_for_empty`; `scheduler` is the configuration."""

    unet: Any
    vae: Any
    towers: tuple[TextTower, ...]
    scheduler: dict[str, Any]
    zeros_for_empty: bool = False

    @property
    def is_xl(self) -> bool:
        """Whether the U-Net has SDXL's added conditions."""
        return len(self.towers) == 2


class LatentModel:
    """A `TextModel` over a pipeline's components, frozen.

    States and outputs are float32 outside; U-Net and VAE hold their weights in `dtype`, except the VAE of an SDXL
    pipeline that asks for float32 (`force_upcast`). Text encoders are float32 always (float64 under `dtype` float64,
    which is there for checks). Gradients reach states, conditions and learned tokens, never a parameter.
    """

    num_classes: int | None = None
    transition = "ddim"
    clip_x0 = False

    def __init__(
        self, name: str, parts: Parts, weights_sha256: str, *, device: str = "cpu", dtype: str = "float32"
    ) -> None:
        _check(name, parts)
        self.name, self.weights_sha256, self.dtype = name, weights_sha256, dtype
        self._chain = read_chain(name, parts.scheduler)
        self.schedule, self.train_steps = self._chain.kind, len(self._chain.betas)
        self._alphas = self._chain.alphas_cumprod().to(device)
        side, config = int(parts.unet.config.sample_size), parts.vae.config
        self.state_shape: tuple[int, ...] = (parts.unet.config.in_channels, side, side)
        self.image_size = side * 2 ** (len(config.block_out_channels) - 1)
        kind = torch.device(device).type
        pixels = _PIXELS_AT_ONCE.get(kind, _PIXELS_AT_ONCE["cpu"])
        self.micro_batch = max(1, min(_LARGEST_BATCH, pixels // self.image_size**2))
        small = sum(parameter.numel() for parameter in parts.unet.parameters()) < _FEW_WEIGHTS
        self.threads: int | None = 1 if small else None
        self._scale, self._shift = float(config.scaling_factor), float(getattr(config, "shift_factor", None) or 0.0)
        self._is_xl, self._zeros_for_empty = parts.is_xl, parts.zeros_for_empty
        weights = getattr(torch, dtype)
        upcast = parts.is_xl and config.force_upcast and weights in (torch.float16, torch.bfloat16)
        self._unet = _frozen(parts.unet, device, weights)
        self._vae = _frozen(parts.vae, device, torch.float32 if upcast else weights)
        text = torch.float64 if weights == torch.float64 else torch.float32
        for tower in parts.towers:
            _frozen(tower.encoder, device, text)
        self._prompts = PromptEncoder(parts.towers, self.micro_batch if kind == "cpu" else None)
        self._empty: tuple[Tensor, Tensor | None] | None = None
        if self.image_size >= _LARGE_SIDE:
            self.save_memory()

    def save_memory(self) -> None:
        """Recompute activations in the backward pass, where there is one, and decode one image at a time. Gradients
        stay the same, and images to rounding, for they are computed in another batch."""
        self._unet.enable_gradient_checkpointing()
        self._vae.enable_gradient_checkpointing()
        self._vae.enable_slicing()

    def compile(self) -> None:
        """Run the U-Net through torch.compile."""
        self._unet = torch.compile(self._unet)

    def predict(self, x_t: Tensor, timestep: Tensor, labels: TextCondition) -> Tensor:
        """Predicted noise `(B, C, h, w)` at original timesteps int64 `(B,)`; under classifier-free guidance
        `eps_u + w (eps_c - eps_u)`, both branches in one call. Differentiable in state and condition."""
        empty = labels.unconditional
        if empty is None:
            return self._noise(x_t, timestep, labels.embeds, labels.pooled, labels.time_ids)
        unguided, guided = self._noise(
            torch.cat([x_t, x_t]),
            torch.cat([timestep, timestep]),
            torch.cat([empty.embeds, labels.embeds]),
            _joined(empty.pooled, labels.pooled),
            _joined(empty.time_ids, labels.time_ids),
        ).chunk(2)
        return unguided + labels.guidance_scale * (guided - unguided)

    def decode(self, x0: Tensor) -> Tensor:
        """Latents `(B, C, h, w)` to images, nominally `[0, 1]`, `(B, 3, H, W)`, not clamped, differentiable."""
        latents = x0 / self._scale + self._shift
        image: Tensor = self._vae.decode(latents.to(self._vae.dtype), return_dict=False)[0]
        return image.to(x0.dtype) / 2 + 0.5

    def encode_prompts(self, prompts: Sequence[str], guidance_scale: float) -> TextCondition:
        """Encoded as the pipeline does, with the empty prompt beside them where the scale is neither 0 nor 1; no
        graph. A prompt's embedding does not depend on the others."""
        with torch.no_grad():
            condition = self._condition(prompts, *self._prompts.encode(prompts))
            if guidance_scale in (0.0, 1.0):
                return condition
            empty = self._unconditional(len(prompts), condition)
        return TextCondition(
            condition.prompts, condition.embeds, condition.pooled, condition.time_ids, empty, float(guidance_scale)
        )

    def noise_schedule(self, steps: int, text: TextSpec) -> Schedule:
        """The respaced chain over the model's own training chain."""
        return self._chain.schedule(steps, text)

    def embed_tokens(
        self, prompts: Sequence[str], learned: Sequence[Tensor] | None, *, pooled: str = "eos"
    ) -> TextCondition:
        """Prompts with one learned token each, after their last word, without the empty prompt; differentiable in
        `learned`: a tensor `(B, width)` a text encoder, or None for the prompts as they are.

        A prompt that fills the window loses its last token. Tokenizer and tables stay as they are. SDXL's pooled
        embedding is read at the end token, or with `pooled="official"` at the learned one, as published code does.
        Reference: MinorityPrompt (Um and Ye 2025). Errors: tensors of another shape exit 2.
        """
        if pooled not in POOLED:
            raise BadInputError(f"pooled {pooled!r} is neither of {', '.join(POOLED)}")
        if learned is not None:
            expected = [(len(prompts), width) for width in self.token_widths]
            found = [tuple(part.shape) for part in learned]
            if found != expected:
                raise BadInputError(f"{self.name}: learned tokens of shapes {found}; its encoders take {expected}")
        return self._condition(prompts, *self._prompts.encode(prompts, learned, pooled))

    @property
    def token_widths(self) -> tuple[int, ...]:
        """Width of a token vector, by text encoder."""
        return self._prompts.widths

    def token_start(self, kind: str) -> list[Tensor]:
        """Initial vector of a learned token, `(width,)` a text encoder: the mean row of the token table for `mean`,
        else the mean of the rows of a word's tokens."""
        return [part.clone() for part in self._prompts.start(kind)]

    def _noise(
        self, x_t: Tensor, timestep: Tensor, embeds: Tensor, pooled: Tensor | None, time_ids: Tensor | None
    ) -> Tensor:
        dtype = self._unet.dtype
        added = None
        if pooled is not None and time_ids is not None:
            added = {"text_embeds": pooled.to(dtype), "time_ids": time_ids.to(dtype)}
        output = self._unet(
            x_t.to(dtype),
            timestep,
            encoder_hidden_states=embeds.to(dtype),
            added_cond_kwargs=added,
            return_dict=False,
        )[0].to(x_t.dtype)
        if not self._chain.predicts_v:
            return output
        # the level the network was trained at, under `alpha_shift` too: that shift is the sampler's, applied to noise
        level = self._alphas[timestep].to(x_t.dtype)[:, None, None, None]
        return level.sqrt() * output + (1 - level).sqrt() * x_t

    def _condition(self, prompts: Sequence[str], embeds: Tensor, pooled: Tensor | None) -> TextCondition:
        time_ids = None
        if self._is_xl:  # original size, crop corner, target size
            size = [float(self.image_size)] * 2
            time_ids = torch.tensor([[*size, 0.0, 0.0, *size]], device=embeds.device).expand(len(prompts), -1)
        return TextCondition(tuple(prompts), embeds, pooled, time_ids)

    def _unconditional(self, batch: int, condition: TextCondition) -> TextCondition:
        if self._empty is None:
            self._empty = self._prompts.encode([""])
        embeds, pooled = self._empty
        embeds = embeds.expand(batch, -1, -1)
        pooled = None if pooled is None else pooled.expand(batch, -1)
        if self._is_xl and self._zeros_for_empty:
            embeds, pooled = torch.zeros_like(embeds), None if pooled is None else torch.zeros_like(pooled)
        return TextCondition(("",) * batch, embeds, pooled, condition.time_ids)


def _joined(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return None if first is None or second is None else torch.cat([first, second])


def _frozen(module: Any, device: str, dtype: torch.dtype) -> Any:
    # diffusers' own `to` warns about each cast, though none of these networks has parts to be kept in float32
    return nn.Module.to(module.eval().requires_grad_(False), device=torch.device(device), dtype=dtype)


def _check(name: str, parts: Parts) -> None:
    """Refuse networks that need a condition we do not give, before they fail or, worse, run without it."""
    unet, vae = parts.unet.config, parts.vae.config
    odd = []
    if unet.in_channels != unet.out_channels or unet.in_channels != vae.latent_channels:
        odd.append(f"a U-Net of {unet.in_channels} channels in and {unet.out_channels} out")
    if (unet.addition_embed_type == "text_time") != parts.is_xl or unet.addition_embed_type not in (None, "text_time"):
        odd.append(f"addition_embed_type {unet.addition_embed_type!r} with {len(parts.towers)} text encoders")
    odd += [key for key in ("class_embed_type", "time_cond_proj_dim", "encoder_hid_dim_type") if unet[key] is not None]
    if getattr(vae, "latents_mean", None) is not None:
        odd.append("latents_mean")
    if odd:
        raise BadInputError(f"{name}: it has {', '.join(odd)}, which plain text-to-image pipelines do not have")
