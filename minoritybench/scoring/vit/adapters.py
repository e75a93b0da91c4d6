"""Folded weights read out of transformers' DINOv2 and I-JEPA models and out of the digits ViT."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from minoritybench.embedded.models import IJepaViT
from minoritybench.scoring.vit.linearised import LinearisedVit
from minoritybench.scoring.vit.weights import VitBlock, VitWeights, fold_block, patch_factor

_DTYPES = (torch.float32, torch.float64)


def linearised_dinov2(model: nn.Module) -> LinearisedVit | None:
    """A `Dinov2Model` or `Dinov2WithRegistersModel` whose output is the CLS token after the final norm.

    None where the model is not laid out as this reader knows it (another activation, another release of transformers,
    a reduced precision); the generic path then serves.
    """
    parts: Any = model
    try:
        embeddings = parts.embeddings
        projection = embeddings.patch_embeddings.projection
        registers = getattr(embeddings, "register_tokens", None)
        blocks = tuple(_dinov2_block(layer) for layer in parts.encoder.layer)
        norm = parts.layernorm
    except (AttributeError, _UnknownLayout):
        return None
    first_patch = 1 if registers is None else 1 + registers.shape[1]
    return _linearised(embeddings, first_patch, projection.weight, blocks, norm, "first")


def linearised_ijepa(model: nn.Module, interpolate_pos_encoding: bool) -> LinearisedVit | None:
    """An `IJepaModel` whose output is the mean of its patch tokens after the final norm; None as for DINOv2."""
    parts: Any = model
    try:
        embeddings = parts.embeddings
        projection = embeddings.patch_embeddings.projection
        blocks = tuple(_ijepa_block(layer) for layer in parts.layers)
        norm = parts.layernorm
    except (AttributeError, _UnknownLayout):
        return None
    embed = partial(embeddings, interpolate_pos_encoding=interpolate_pos_encoding)
    return _linearised(embed, 0, projection.weight, blocks, norm, "mean")


def linearised_digits(module: IJepaViT) -> LinearisedVit | None:
    """The digits ViT: 16 tokens of 2x2 pixels, the mean of its final-normed tokens."""
    blocks = []
    for block in module.blocks:
        parts: Any = block
        blocks.append(
            fold_block(
                heads=parts.attn.heads,
                norms=(parts.norm1, parts.norm2),
                qkv=(parts.attn.qkv,),
                out=parts.attn.proj,
                up=(parts.mlp[0],),
                down=parts.mlp[2],
                scales=None,
            )
        )
    return _linearised(module.embed_patches, 0, module.embed.weight, tuple(blocks), module.norm, "mean")


class _UnknownLayout(Exception):
    """The model computes something that the folded network does not."""


def _linearised(
    embed: Callable[[Tensor], Tensor],
    first_patch: int,
    filters: Tensor,
    blocks: tuple[VitBlock, ...],
    norm: nn.LayerNorm,
    pool: Literal["first", "mean"],
) -> LinearisedVit | None:
    """The network of these parts, `filters` being the patch embedding's weight; None in a reduced precision."""
    if norm.weight.dtype not in _DTYPES:
        return None
    return LinearisedVit(
        VitWeights(
            embed=embed,
            first_patch=first_patch,
            patch_factor=patch_factor(filters),
            blocks=blocks,
            norm_weight=norm.weight.detach(),
            norm_bias=norm.bias.detach(),
            norm_eps=norm.eps,
            pool=pool,
        )
    )


def _dinov2_block(layer: Any) -> VitBlock:
    mlp = layer.mlp
    up: tuple[nn.Linear, ...]
    if hasattr(mlp, "gate_proj"):
        up, down = (mlp.gate_proj, mlp.up_proj), mlp.down_proj
    else:
        _require_exact_gelu(mlp.activation_fn)
        up, down = (mlp.fc1,), mlp.fc2
    scales: tuple[Tensor, Tensor] = (layer.layer_scale1.lambda1, layer.layer_scale2.lambda1)
    return _block(layer.attention, (layer.norm1, layer.norm2), up, down, scales)


def _ijepa_block(layer: Any) -> VitBlock:
    _require_exact_gelu(layer.mlp.activation_fn)
    norms = (layer.layernorm_before, layer.layernorm_after)
    return _block(layer.attention, norms, (layer.mlp.fc1,), layer.mlp.fc2, None)


def _block(
    attention: Any,
    norms: tuple[nn.LayerNorm, nn.LayerNorm],
    up: tuple[nn.Linear, ...],
    down: nn.Linear,
    scales: tuple[Tensor, Tensor] | None,
) -> VitBlock:
    return fold_block(
        heads=attention.num_attention_heads,
        norms=norms,
        qkv=(attention.q_proj, attention.k_proj, attention.v_proj),
        out=attention.o_proj,
        up=up,
        down=down,
        scales=scales,
    )


def _require_exact_gelu(function: Any) -> None:
    """Refuse any other activation, the tanh approximation among them, by its values."""
    points = torch.linspace(-4.0, 4.0, 33, dtype=torch.float64)
    if not torch.allclose(function(points), nn.functional.gelu(points), rtol=0.0, atol=1e-12):
        raise _UnknownLayout
