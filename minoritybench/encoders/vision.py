"""Pretrained encoders by id: DINOv2 with and without registers, I-JEPA, MetaCLIP, `clip:*` and `timm:*`.

One canonical loader an id, so that a score never depends on which library was found: transformers for DINOv2 and
I-JEPA, open_clip for MetaCLIP and `clip:*`, timm for `timm:*`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from minoritybench.encoders.assets import WeightFile, given, locate
from minoritybench.encoders.module import (
    CLIP,
    IMAGENET,
    ModuleEncoder,
    layer_norm_nulls,
    load_tensors,
    mean_of_layer_norm_nulls,
    randomise,
)
from minoritybench.errors import BadInputError
from minoritybench.scoring.vit.adapters import linearised_dinov2, linearised_ijepa

Weights = Literal["random"] | Path | None

_PATCH = 14
_AUTHOR = "author-bilinear"
_IJEPA_FILE = WeightFile("facebook/ijepa_vith14_1k", "model.safetensors", "2.5 GB")
_METACLIP_FILE = WeightFile(
    "timm/vit_base_patch16_clip_quickgelu_224.metaclip_400m", "open_clip_model.safetensors", "0.6 GB"
)


@dataclass(frozen=True)
class VitSize:
    """Width, depth, heads and whether the MLP is SwiGLU, of a ViT/14."""

    width: int
    depth: int
    heads: int
    swiglu: bool = False


DINOV2_SIZES = {
    "vits14": VitSize(384, 12, 6),
    "vitb14": VitSize(768, 12, 12),
    "vitl14": VitSize(1024, 24, 16),
    "vitg14": VitSize(1536, 40, 24, swiglu=True),
}
_HUB_SIZE = {
    "vits14": ("small", "88 MB"),
    "vitb14": ("base", "346 MB"),
    "vitl14": ("large", "1.2 GB"),
    "vitg14": ("giant", "4.5 GB"),
}


class _Pooled(nn.Module):
    """A transformers vision model reduced to one embedding an image."""

    def __init__(self, model: nn.Module, pool: Callable[[Tensor], Tensor], **options: Any) -> None:
        super().__init__()
        self.model, self._pool, self._options = model, pool, options

    def forward(self, pixels: Tensor) -> Tensor:
        return self._pool(self.model(pixel_values=pixels, **self._options).last_hidden_state)


def dinov2_architecture(size: VitSize, registers: bool) -> nn.Module:
    """The transformers model of DINOv2 ViT/14, trained at 518 px; the CLS token after the final norm is the output."""
    from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    shape: dict[str, Any] = {
        "hidden_size": size.width,
        "num_hidden_layers": size.depth,
        "num_attention_heads": size.heads,
        "use_swiglu_ffn": size.swiglu,
        "image_size": 518,
        "patch_size": _PATCH,
    }
    if registers:
        config = Dinov2WithRegistersConfig(num_register_tokens=4, **shape)
        config._attn_implementation = "eager"
        return Dinov2WithRegistersModel(config)
    plain = Dinov2Config(**shape)
    plain._attn_implementation = "eager"
    return Dinov2Model(plain)


def find_weights(name: str) -> Path:
    """The published file of `dinov2-*`, `ijepa-vith14` or `metaclip-b16`, not opened; exit 4 where it is not here."""
    fixed = {"ijepa-vith14": _IJEPA_FILE, "metaclip-b16": _METACLIP_FILE}
    return locate(name, fixed.get(name) or _dinov2_file(name))


def _dinov2_file(name: str) -> WeightFile:
    size_name, _, suffix = name.removeprefix("dinov2-").partition("-")
    hub, size = _HUB_SIZE[size_name]
    return WeightFile(f"facebook/dinov2-{'with-registers-' if suffix else ''}{hub}", "model.safetensors", size)


def load_dinov2(
    name: str,
    *,
    weights: Weights = None,
    input_size: int = 224,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ModuleEncoder:
    """`dinov2-{vits14,vitb14,vitl14,vitg14}[-reg]`: CLS token after the final LayerNorm.

    Preprocessing is the published scorer's: bilinear to 224 px without antialiasing, aspect ratio ignored. The position
    grid is resampled from 37 x 37 to the input's, by transformers' rule.
    """
    size_name, _, suffix = name.removeprefix("dinov2-").partition("-")
    registers = suffix == "reg"
    _divisible(name, input_size, _PATCH)
    size = DINOV2_SIZES[size_name]
    model: Any = dinov2_architecture(size, registers)
    digest = _fill(name, model, weights, _dinov2_file(name), _without_prefix("dinov2_with_registers.", "dinov2."))
    norm = model.layernorm
    assert isinstance(norm, nn.LayerNorm)
    return ModuleEncoder(
        name,
        _Pooled(model, lambda tokens: tokens[:, 0]),
        dim=size.width,
        input_size=input_size,
        preprocess=_AUTHOR,
        statistics=IMAGENET,
        weights_sha256=digest,
        nulls=layer_norm_nulls(norm),
        device=device,
        dtype=dtype,
        linearise=lambda: linearised_dinov2(model),
    )


def ijepa_architecture(size: VitSize) -> nn.Module:
    """The transformers model of I-JEPA ViT/14 at 224 px, no class token, no pooling layer."""
    from transformers import IJepaConfig, IJepaModel

    config = IJepaConfig(
        hidden_size=size.width,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
        image_size=224,
        patch_size=_PATCH,
        layer_norm_eps=1e-6,
    )
    config._attn_implementation = "eager"
    return IJepaModel(config, add_pooling_layer=False)


IJEPA_VITH14 = VitSize(1280, 32, 16)


def load_ijepa(
    name: str,
    *,
    weights: Weights = None,
    input_size: int = 224,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ModuleEncoder:
    """`ijepa-vith14`: mean of the patch tokens after the final LayerNorm (the model has no class token)."""
    _divisible(name, input_size, _PATCH)
    model: Any = ijepa_architecture(IJEPA_VITH14)
    digest = _fill(name, model, weights, _IJEPA_FILE, _without_prefix("ijepa."))
    norm = model.layernorm
    assert isinstance(norm, nn.LayerNorm)
    return ModuleEncoder(
        name,
        _Pooled(model, lambda tokens: tokens.mean(dim=1), interpolate_pos_encoding=input_size != 224),
        dim=IJEPA_VITH14.width,
        input_size=input_size,
        preprocess=_AUTHOR,
        statistics=IMAGENET,
        weights_sha256=digest,
        nulls=mean_of_layer_norm_nulls(norm),
        device=device,
        dtype=dtype,
        linearise=lambda: linearised_ijepa(model, interpolate_pos_encoding=input_size != 224),
    )


def load_metaclip(
    name: str,
    *,
    weights: Weights = None,
    input_size: int = 224,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ModuleEncoder:
    """`metaclip-b16`: open_clip's ViT-B-16-quickgelu with MetaCLIP 400M weights; projected, not normalised, as the
    published scorer uses it."""
    return _open_clip(name, "ViT-B-16-quickgelu", _METACLIP_FILE, weights, input_size, device, dtype)


def load_clip(
    name: str,
    *,
    weights: Weights = None,
    input_size: int = 224,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ModuleEncoder:
    """`clip:ARCHITECTURE/PRETRAINED`, both in open_clip's names: the projected image embedding, not normalised."""
    from open_clip import list_models, list_pretrained_tags_by_model
    from open_clip.pretrained import get_pretrained_cfg

    architecture, slash, tag = name.removeprefix("clip:").partition("/")
    if architecture not in list_models():
        raise BadInputError(f"{name}: open_clip has no model {architecture!r}; write clip:ARCHITECTURE/PRETRAINED")
    if weights is not None and not slash:
        return _open_clip(name, architecture, None, weights, input_size, device, dtype)
    tags = list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        raise BadInputError(f"{name}: {architecture} has the pretrained tags {', '.join(tags) or 'none'}")
    repo = str(get_pretrained_cfg(architecture, tag).get("hf_hub", "")).rstrip("/")
    file = WeightFile(repo or f"open_clip/{architecture}", "open_clip_model.safetensors", "size on its page")
    return _open_clip(name, architecture, file, weights, input_size, device, dtype)


def _open_clip(
    name: str,
    architecture: str,
    file: WeightFile | None,
    weights: Weights,
    input_size: int,
    device: str,
    dtype: torch.dtype,
) -> ModuleEncoder:
    from open_clip import create_model

    with _quiet_root():
        model: Any = create_model(architecture, pretrained=None, force_image_size=input_size).visual
    digest = _fill(name, model, weights, file, _only_prefix("visual."))
    return ModuleEncoder(
        name,
        model,
        dim=int(model.output_dim),
        input_size=input_size,
        preprocess=_AUTHOR,
        statistics=CLIP,
        weights_sha256=digest,
        nulls=None,  # a linear projection follows the norm
        device=device,
        dtype=dtype,
    )


@contextmanager
def _quiet_root() -> Iterator[None]:
    """open_clip tells the root logger each step, and that weights are random which are loaded right after."""

    def refuse(record: logging.LogRecord) -> bool:
        return False

    root = logging.getLogger()
    root.addFilter(refuse)
    try:
        yield
    finally:
        root.removeFilter(refuse)


def load_timm(
    name: str,
    *,
    weights: Weights = None,
    input_size: int | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ModuleEncoder:
    """`timm:MODEL[.TAG]`: timm's pooled features without the head, at the model's own size and statistics."""
    import timm

    architecture = name.removeprefix("timm:")
    if not timm.is_model(architecture):
        near = timm.list_models(f"*{architecture.partition('.')[0][:12]}*")[:3]
        raise BadInputError(
            f"{name}: timm has no model {architecture!r}" + (f"; near: {', '.join(near)}" if near else "")
        )
    options: dict[str, Any] = {} if input_size is None else {"img_size": input_size}
    try:
        model: Any = timm.create_model(architecture, pretrained=False, num_classes=0, **options)
    except TypeError as error:
        raise BadInputError(f"{name}: its input size cannot be changed (input_size={input_size})") from error
    settings = model.pretrained_cfg
    repo = str(settings.get("hf_hub_id") or f"timm/{architecture}")
    digest = _fill(name, model, weights, WeightFile(repo, "model.safetensors", "size on its page"), _without_head)
    return ModuleEncoder(
        name,
        model,
        dim=int(model.num_features),
        input_size=input_size or int(settings["input_size"][-1]),
        preprocess="antialias",
        statistics=(tuple(settings["mean"]), tuple(settings["std"])),
        weights_sha256=digest,
        nulls=_timm_nulls(model),
        device=device,
        dtype=dtype,
    )


def _timm_nulls(model: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """A timm ViT whose class token leaves through a LayerNorm has its two null directions; others declare none."""
    norm, pool = getattr(model, "norm", None), getattr(model, "global_pool", None)
    return layer_norm_nulls(norm) if isinstance(norm, nn.LayerNorm) and pool == "token" else None


def _fill(
    name: str,
    model: nn.Module,
    weights: Weights,
    file: WeightFile | None,
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]],
) -> str | None:
    """Random, the user's or the published weights; the digest of the file, None for random ones."""
    if weights == "random":
        randomise(model)
        return None
    if weights is not None:
        return load_tensors(model, given(name, Path(weights), file), name, rename)
    if file is None:
        raise BadInputError(f"{name}: name its weights with --weights, or write clip:ARCHITECTURE/PRETRAINED")
    return load_tensors(model, locate(name, file), name, rename)


def _without_prefix(*prefixes: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Keys as the bare model names them, whichever head class saved them; classifier heads left out."""

    def rename(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        bare = {}
        for key, value in tensors.items():
            for prefix in prefixes:
                key = key.removeprefix(prefix)
            if not key.startswith("classifier."):
                bare[key] = value
        return bare

    return rename


def _only_prefix(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """The image tower of a whole CLIP file; a file of the tower alone passes through."""

    def rename(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tower = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        return tower or tensors

    return rename


def _without_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if not key.startswith(("head.", "fc.", "classifier."))}


def _divisible(name: str, input_size: int, patch: int) -> None:
    if input_size % patch or input_size < patch:
        raise BadInputError(f"{name}: input_size={input_size} is not a multiple of its {patch} px patches")
