"""The forward pass of a folded vision transformer, keeping what its linearisation needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from minoritybench.scoring.vit.weights import VitBlock, VitWeights


@dataclass(frozen=True)
class Normed:
    """A LayerNorm at `(B, N, D)` inputs: `x_hat` `(B, N, D)` and the reciprocal deviation `rstd` `(B, N, 1)`."""

    x_hat: Tensor
    rstd: Tensor


@dataclass(frozen=True)
class BlockState:
    """A block's linearisation at `B` images of `N` tokens.

    `queries`, `keys`, `values`, `mixed` `(B, heads, N, w)`; `attention` `(B, heads, N, N)`, rows sum to one;
    `slopes` `(B, N, F)`, the activation's derivatives; `qkv_x_hat` `(B, N, 3A)` and `up_x_hat` `(B, N, F)`, the folded
    matrices at `x_hat` without their biases.
    """

    norm1: Normed
    queries: Tensor
    keys: Tensor
    values: Tensor
    attention: Tensor
    mixed: Tensor
    qkv_x_hat: Tensor
    norm2: Normed
    slopes: Tensor
    up_x_hat: Tensor


@dataclass(frozen=True)
class VitState:
    """A whole network's linearisation: its blocks, its final norm at all tokens and its output `z` `(B, D)`."""

    blocks: tuple[BlockState, ...]
    norm: Normed
    z: Tensor


def run(weights: VitWeights, prepared: Tensor) -> VitState:
    """Evaluate the network at prepared inputs `(B, ...)`."""
    tokens = weights.embed(prepared)
    states = []
    for block in weights.blocks:
        tokens, state = _run_block(block, tokens)
        states.append(state)
    norm = normalise(tokens, weights.norm_eps)
    pooled = norm.x_hat[:, 0] if weights.pool == "first" else norm.x_hat.mean(dim=1)
    return VitState(tuple(states), norm, pooled * weights.norm_weight + weights.norm_bias)


def normalise(tokens: Tensor, eps: float) -> Normed:
    """LayerNorm without its affine part."""
    centred = tokens - tokens.mean(dim=-1, keepdim=True)
    rstd = torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + eps)
    return Normed(centred * rstd, rstd)


def _run_block(block: VitBlock, tokens: Tensor) -> tuple[Tensor, BlockState]:
    batch, count, _ = tokens.shape
    norm1 = normalise(tokens, block.eps[0])
    qkv_x_hat = norm1.x_hat @ block.qkv.T
    parts = (qkv_x_hat + block.qkv_bias).reshape(batch, count, 3, block.heads, -1).permute(2, 0, 3, 1, 4)
    queries, keys, values = (part.contiguous() for part in parts)
    attention = torch.softmax(queries @ keys.transpose(-2, -1), dim=-1)
    mixed = attention @ values
    tokens = tokens + F.linear(mixed.transpose(1, 2).reshape(batch, count, -1), block.out, block.out_bias)
    norm2 = normalise(tokens, block.eps[1])
    up_x_hat = norm2.x_hat @ block.up.T
    hidden, slopes = activate(up_x_hat + block.up_bias, block.activation)
    tokens = tokens + F.linear(hidden, block.down, block.down_bias)
    return tokens, BlockState(
        norm1, queries, keys, values, attention, mixed, qkv_x_hat, norm2, slopes=slopes, up_x_hat=up_x_hat
    )


def activate(inputs: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Activations `(B, N, H)` and their derivatives in each input `(B, N, F)`; exact (erf) GELU or SwiGLU."""
    if kind == "gelu":
        below = 0.5 * (1.0 + torch.erf(inputs * math.sqrt(0.5)))
        density = torch.exp(-0.5 * inputs.square()) / math.sqrt(2.0 * math.pi)
        return inputs * below, below + inputs * density
    gate, value = inputs.chunk(2, dim=-1)
    sigmoid = torch.sigmoid(gate)
    silu = gate * sigmoid
    return silu * value, torch.cat([value * (sigmoid + silu * (1.0 - sigmoid)), silu], dim=-1)
