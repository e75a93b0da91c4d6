"""Networks of the embedded benchmarks. All take ``x`` of shape ``(B, 1, 8, 8)`` in ``[-1, 1]``, those built with
``image_size`` 16 ``(B, 1, 16, 16)``.

Every width is a multiple of 16: BLAS then gives bitwise the same row whatever the other rows of a fixed
micro-batch hold. There is no BatchNorm, so that a Jacobian belongs to one image.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minoritybench.diffusion.schedule import cosine_betas

PIXELS = 64
TIMESTEPS = 1000
UNCONDITIONAL = 10  # the label index that stands for "no label"


def _small_mlp(pixels: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(pixels, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, dim))


class SphereMLP(nn.Module):
    """64-128-128-16 GELU (256-... at 16 px); the L2 normalisation is part of the encoder.

    Output ``(B, 16)`` on the unit sphere.
    """

    dim = 16

    def __init__(self, image_size: int = 8) -> None:
        super().__init__()
        self.image_size = image_size
        self.net = _small_mlp(image_size**2, self.dim)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.net(x.flatten(1)), dim=1)


class VicregMLP(nn.Module):
    """64-128-128-16 GELU that ends in a plain Linear: the negative control. Output ``(B, 16)``."""

    dim = 16
    image_size = 8

    def __init__(self) -> None:
        super().__init__()
        self.net = _small_mlp(PIXELS, self.dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x.flatten(1))
        return out


class Attention(nn.Module):
    """Multi-head self-attention written out, because the fused kernels have no second derivative."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(dim // self.heads), dim=-1)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, dim))
        return out


class Block(nn.Module):
    """Pre-norm transformer block with a GELU MLP of ratio 2."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class IJepaViT(nn.Module):
    """A small ViT on 16 tokens of 2x2 pixels (4x4 at 16 px).

    The encoder is the mean of the final-normed tokens, ``(B, dim)``.

    ``norm`` is the final LayerNorm: its ``1 / weight`` is the one direction in which the output never moves.
    """

    dim = 96
    depth = 2
    heads = 6
    tokens = 16

    def __init__(self, image_size: int = 8) -> None:
        super().__init__()
        self.image_size, self.patch = image_size, image_size // 4
        self.embed = nn.Linear(self.patch**2, self.dim)
        self.position = nn.Parameter(torch.randn(1, self.tokens, self.dim) * 0.02)
        self.blocks = nn.ModuleList(Block(self.dim, self.heads) for _ in range(self.depth))
        self.norm = nn.LayerNorm(self.dim)

    def embed_patches(self, x: Tensor) -> Tensor:
        """Tokens before the first block ``(B, 16, dim)``."""
        side = self.patch
        patches = x.reshape(-1, 4, side, 4, side).transpose(2, 3).reshape(-1, self.tokens, side**2)
        out: Tensor = self.embed(patches) + self.position
        return out

    def encode_tokens(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Final-normed tokens ``(B, T, dim)``; ``keep`` ``(B, K)`` int64 selects the visible tokens."""
        h = self.embed_patches(x)
        if keep is not None:
            h = h.gather(1, keep[:, :, None].expand(-1, -1, self.dim))
        for block in self.blocks:
            h = block(h)
        out: Tensor = self.norm(h)
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self.encode_tokens(x).mean(dim=1)


class FilmBlock(nn.Module):
    """Residual MLP block whose LayerNorm is scaled and shifted by the time-and-label embedding."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.film = nn.Linear(embedding, 2 * width)
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.film(emb).chunk(2, dim=1)
        out: Tensor = self.norm(h) * (1 + scale) + shift
        return h + self.fc2(F.silu(self.fc1(F.silu(out))))


class DigitsDenoiser(nn.Module):
    """Noise predictor on flattened pixels, conditioned on the time step and, optionally, the digit class.

    The network itself predicts the velocity ``v = signal * noise - sigma * x0``, from which ``forward`` forms
    the noise: at high noise the error of ``x0`` then stays bounded, and samples are better (see the card).
    Reference: Salimans and Ho 2022, "Progressive distillation", appendix D, for ``v``.
    """

    width = 256
    embedding = 128
    depth = 3
    signal: Tensor
    sigma: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(64, self.embedding), nn.SiLU(), nn.Linear(self.embedding, self.embedding))
        self.label = nn.Embedding(UNCONDITIONAL + 1, self.embedding)
        self.inp = nn.Linear(PIXELS, self.width)
        self.blocks = nn.ModuleList(FilmBlock(self.width, self.embedding) for _ in range(self.depth))
        self.norm = nn.LayerNorm(self.width)
        self.out = nn.Linear(self.width, PIXELS)
        abar = torch.from_numpy(np.cumprod(1 - cosine_betas(TIMESTEPS)))
        # not persistent: a float16 file must not round the schedule
        self.register_buffer("signal", abar.sqrt().float(), persistent=False)
        self.register_buffer("sigma", (1 - abar).sqrt().float(), persistent=False)

    def forward(self, x: Tensor, timestep: Tensor, labels: Tensor | None = None) -> Tensor:
        """Predict the noise in ``x``.

        x: ``(B, 1, 8, 8)``. timestep: int64 ``(B,)`` in 0..999. labels: int64 ``(B,)`` in 0..9, or
        ``None`` (or 10) for unconditional. Returns ``(B, 1, 8, 8)``.
        """
        signal, sigma = self.levels(timestep)
        return sigma * x + signal * self.velocity(x, timestep, labels)

    def levels(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """``sqrt(abar)`` and ``sqrt(1 - abar)`` at each time step, ``(B, 1, 1, 1)``."""
        return self.signal[timestep].view(-1, 1, 1, 1), self.sigma[timestep].view(-1, 1, 1, 1)

    def velocity(self, x: Tensor, timestep: Tensor, labels: Tensor | None = None) -> Tensor:
        """Predict ``signal * noise - sigma * x0``; shapes as in ``forward``."""
        if labels is None:
            labels = torch.full_like(timestep, UNCONDITIONAL)
        emb = F.silu(self.time(sinusoidal(timestep)) + self.label(labels))
        h = self.inp(x.flatten(1))
        for block in self.blocks:
            h = block(h, emb)
        out: Tensor = self.out(F.silu(self.norm(h)))
        return out.reshape(x.shape)


def sinusoidal(timestep: Tensor, dim: int = 64) -> Tensor:
    """Sine and cosine features of the time step, ``(B, dim)`` float32."""
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(dim // 2) / (dim // 2))
    angles = timestep[:, None].float() * frequencies.to(timestep.device)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class DigitsClassifier(nn.Module):
    """64-128-64-10 GELU classifier (256-... at 16 px); its 64 penultimate activations are the benchmark's features."""

    def __init__(self, image_size: int = 8) -> None:
        super().__init__()
        self.image_size = image_size
        self.body = nn.Sequential(nn.Linear(image_size**2, 128), nn.GELU(), nn.Linear(128, 64), nn.GELU())
        self.head = nn.Linear(64, 10)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate activations ``(B, 64)``."""
        out: Tensor = self.body(x.flatten(1))
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.features(x))
        return out
