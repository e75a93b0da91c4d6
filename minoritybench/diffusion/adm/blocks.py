"""The layers of ADM networks, named as in the published state dicts.

Reference: Dhariwal and Nichol 2021, arXiv:2105.05233, Appendix A and Table 4. Precision: convolutions compute in their
weights' type (bfloat16 if converted), norms, embeddings and the output in theirs, float32.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minoritybench.diffusion.adm.config import NORM_GROUPS, AttentionOrder, TrunkConfig

Convolution = nn.Conv1d | nn.Conv2d
_LONGEST_PERIOD = 10000.0


def convolve(layer: Convolution, x: Tensor) -> Tensor:
    """The convolution in the precision of its weights."""
    return layer(x.to(layer.weight.dtype))


def zeroed(layer: Convolution) -> Convolution:
    """A layer that starts at zero, so that its residual branch is silent before training."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def timestep_features(timesteps: Tensor, width: int) -> Tensor:
    """Sinusoids `(B, width)` of timesteps `(B,)`: cosines first, then sines, periods up to 10000; `width` even."""
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps.float()[:, None] * torch.exp(-math.log(_LONGEST_PERIOD) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def time_embedding(config: TrunkConfig) -> nn.Sequential:
    """The MLP on the sinusoids."""
    wide = config.embedding
    return nn.Sequential(nn.Linear(config.channels, wide), nn.SiLU(), nn.Linear(wide, wide))


class Norm(nn.GroupNorm):
    """GroupNorm of 32 groups, computed and returned in the precision of its own weights."""

    def __init__(self, channels: int) -> None:
        super().__init__(NORM_GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, ...)` normalised."""
        return super().forward(x.to(self.weight.dtype))


def attend(qkv: Tensor, heads: int, order: AttentionOrder) -> Tensor:
    """Self-attention of `(B, 3C, T)` to `(B, C, T)`.

    PyTorch's fused kernels have a first derivative only; for a second one run inside `sdpa_kernel(SDPBackend.MATH)`.
    """
    batch, _, length = qkv.shape
    if order == "new":
        q, k, v = qkv.view(batch, 3, heads, -1, length).unbind(1)
    else:
        q, k, v = qkv.view(batch, heads, 3, -1, length).unbind(2)
    return F.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT.flatten(1, 2)


class AttentionBlock(nn.Module):
    """Residual self-attention over all pixels."""

    def __init__(self, channels: int, heads: int, order: AttentionOrder) -> None:
        super().__init__()
        self.heads, self.order = heads, order
        self.norm = Norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to the same shape."""
        flat = x.flatten(2)
        attended = attend(convolve(self.qkv, self.norm(flat)), self.heads, self.order)
        return (flat + convolve(self.proj_out, attended)).view_as(x)


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice, the second norm scaled and shifted by the embedding; `resample` doubles or halves
    the image inside both branches."""

    def __init__(
        self, config: TrunkConfig, inner: int, outer: int, resample: Literal["none", "up", "down"] = "none"
    ) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(Norm(inner), nn.SiLU(), nn.Conv2d(inner, outer, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(config.embedding, 2 * outer))
        self.out_layers = nn.Sequential(
            Norm(outer), nn.SiLU(), nn.Dropout(config.dropout), zeroed(nn.Conv2d(outer, outer, 3, padding=1))
        )
        self.skip_connection = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1)
        self.resample = resample

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """`(B, inner, H, W)` and `(B, embedding)` to `(B, outer, H', W')`."""
        norm, activation, convolution = self.in_layers
        h = self._resampled(activation(norm(x)))
        assert isinstance(convolution, nn.Conv2d)
        h = convolve(convolution, h)
        norm, activation, dropout, convolution = self.out_layers
        scale, shift = self.emb_layers(embedding)[:, :, None, None].chunk(2, dim=1)
        h = dropout(activation(norm(h) * (1 + scale) + shift))
        assert isinstance(convolution, nn.Conv2d)
        return self.skip_connection(self._resampled(x)) + convolve(convolution, h)

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample == "down" else x


class AttentionPool(nn.Module):
    """Attention of the mean pixel to all of them, projected: the classifiers' head. Always in the `new` order."""

    def __init__(self, side: int, channels: int, heads: int, outputs: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(channels, side**2 + 1) / channels**0.5)
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, side, side)` to `(B, outputs)`."""
        flat = x.flatten(2)
        tokens = torch.cat([flat.mean(dim=2, keepdim=True), flat], dim=2) + self.positional_embedding
        pooled: Tensor = self.c_proj(attend(self.qkv_proj(tokens), self.heads, "new"))
        return pooled[:, :, 0]


class Stage(nn.ModuleList):
    """Layers run one after the other; residual blocks also get the embedding."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """`(B, C, H, W)` through every layer."""
        for layer in self:
            if isinstance(layer, ResidualBlock):
                x = layer(x, embedding)
            else:
                x = convolve(layer, x) if isinstance(layer, nn.Conv2d) else layer(x)
        return x
