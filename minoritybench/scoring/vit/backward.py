"""Cotangents pulled back through a linearised vision transformer, all rows of a batch at once.

A block of cotangents is `(B, N, R, D)`: R rows at each of N tokens. Nothing here is approximate but the arithmetic: every
product is that of the chain rule, with the constants of `minoritybench.scoring.vit.forward`.

What is saved against automatic differentiation, row by row:
- activations, softmax and norms are linearised once an image, not once a row;
- with many rows, a token's MLP and its residual become one D x D matrix, so a row costs D^2 instead of 8 D^2;
- the cotangent of the queries needs only `Cov_A(v, k)`, a small matrix a token and head;
- where the output is one token, the last block acts on that token alone and its keys' and values' cotangents have rank
  one a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minoritybench.scoring.vit.forward import BlockState, Normed, VitState
from minoritybench.scoring.vit.weights import VitBlock, VitWeights

_SCORE_ELEMENTS = 1 << 21
"""Attention-score cotangents held at a time; bounds the rows of a chunk."""
_MLP_ELEMENTS = 1 << 20
"""Scaled MLP weights held at a time; bounds the tokens of a block."""


def pull_back(weights: VitWeights, state: VitState, cotangents: Tensor, out: Tensor) -> None:
    """Fill `out` `(B, N, R, D)` with the cotangents of all embedded tokens, for output cotangents `(B, R, D)`.

    The arithmetic is done in `out`'s dtype; `out` may be a view of a larger buffer.
    """
    blocks = list(zip(weights.blocks, state.blocks, strict=True))
    if weights.pool == "first":
        _head(weights, _first(state.norm), cotangents, out[:, :1])
        block, block_state = blocks.pop()
        _mlp(block, block_state, out[:, :1])
        _first_token_attention(block, block_state, out)
    else:
        _head(weights, state.norm, cotangents / state.norm.x_hat.shape[1], out)
    for block, block_state in reversed(blocks):
        _mlp(block, block_state, out)
        _attention(block, block_state, out)


def _first(norm: Normed) -> Normed:
    return Normed(norm.x_hat[:, :1], norm.rstd[:, :1])


def _head(weights: VitWeights, norm: Normed, cotangents: Tensor, out: Tensor) -> None:
    """The final LayerNorm, into `out` `(B, M, R, D)` at M tokens."""
    scaled = cotangents * weights.norm_weight
    centred = (scaled - scaled.mean(dim=-1, keepdim=True)).unsqueeze(1)
    along = (centred @ norm.x_hat.unsqueeze(-1)) / weights.dim
    out.copy_((centred - along * norm.x_hat.unsqueeze(2)) * norm.rstd.unsqueeze(-1))


def _mlp(block: VitBlock, state: BlockState, rows: Tensor) -> None:
    """MLP and residual, in place, on rows `(B, M, R, D)` of the first M tokens."""
    batch, count, size, dim = rows.shape
    inner = block.up.shape[0]
    # Forming a token's matrix costs 2 D^2 F, a row through it D^2, a row through the two layers 2 D F or more.
    if size * (2 * inner - dim) < 2 * inner * dim:
        _mlp_rows(block, state, rows)
        return
    per_block = max(1, _MLP_ELEMENTS // (dim * inner))
    for image in range(batch):
        for start in range(0, count, per_block):
            tokens = slice(start, min(start + per_block, count))
            part = rows[image, tokens]
            part.copy_(torch.bmm(part, _token_matrices(block, state, image, tokens, rows.dtype)))


def _token_matrices(block: VitBlock, state: BlockState, image: int, tokens: slice, dtype: torch.dtype) -> Tensor:
    """`I + down diag(slopes) up (I - x_hat x_hat^T / D) rstd` of some tokens, `(tokens, D, D)`."""
    x_hat = state.norm2.x_hat[image, tokens]
    slopes = state.slopes[image, tokens] * state.norm2.rstd[image, tokens]
    left = _scaled_down(block, slopes.to(dtype), dtype)
    matrices = (left.flatten(0, 1) @ block.up.to(dtype)).view(len(x_hat), *block.down.shape[:1], -1)
    along = left @ state.up_x_hat[image, tokens].to(dtype).unsqueeze(-1)
    matrices.baddbmm_(along, x_hat.to(dtype).unsqueeze(1), alpha=-1.0 / x_hat.shape[1])
    matrices.diagonal(dim1=1, dim2=2).add_(1.0)
    return matrices


def _scaled_down(block: VitBlock, slopes: Tensor, dtype: torch.dtype) -> Tensor:
    """`down diag(slopes)` of some tokens, `(tokens, D, F)`; SwiGLU's two halves share `down`."""
    dim, hidden = block.down.shape
    parts = slopes.view(len(slopes), 1, -1, hidden)
    return (block.down.to(dtype).unsqueeze(1) * parts).view(len(slopes), dim, -1)


def _mlp_rows(block: VitBlock, state: BlockState, rows: Tensor) -> None:
    """The same for few rows, without forming a matrix."""
    count, dtype = rows.shape[1], rows.dtype
    slopes = (state.slopes * state.norm2.rstd)[:, :count].unsqueeze(2).to(dtype)
    hidden = rows @ block.down.to(dtype)
    if block.activation == "swiglu":
        hidden = hidden.repeat(1, 1, 1, 2)
    hidden *= slopes
    along = hidden @ state.up_x_hat[:, :count].to(dtype).unsqueeze(-1)
    rows += hidden @ block.up.to(dtype)
    rows -= along * (state.norm2.x_hat[:, :count] / rows.shape[3]).to(dtype).unsqueeze(2)


def _attention(block: VitBlock, state: BlockState, rows: Tensor) -> None:
    """Attention and residual, in place, on rows `(B, N, R, D)`."""
    batch, count, size, dim = rows.shape
    dtype, heads = rows.dtype, block.heads
    out, qkv = block.out.to(dtype), block.qkv.to(dtype)
    weighted = (state.attention * state.norm1.rstd.view(batch, 1, 1, count)).transpose(-2, -1).to(dtype)
    scores = _score_matrices(state)
    queries = state.queries.to(dtype)
    covariance = (
        (scores / state.norm1.rstd.view(batch, 1, 1, count, 1)).transpose(-2, -1) @ state.keys.unsqueeze(2)
    ) * (state.norm1.rstd.view(batch, 1, count, 1, 1))
    covariance = covariance.to(dtype)
    scores = scores.to(dtype)
    x_hat = (state.norm1.x_hat / -dim).to(dtype).unsqueeze(2)
    qkv_x_hat = state.qkv_x_hat.to(dtype).unsqueeze(-1)
    step = max(16, _SCORE_ELEMENTS // (batch * count * count) // 16 * 16)
    for start in range(0, size, step):
        part = rows[:, :, start : start + step]
        chunk = part.shape[2]
        mixed = (part.reshape(-1, dim) @ out).view(batch, count, chunk, heads, -1)
        back = torch.empty(batch, count, chunk, 3, *mixed.shape[3:], dtype=dtype, device=rows.device)
        for head in range(heads):
            own = mixed[:, :, :, head].contiguous()
            back[:, :, :, 0, head] = own @ covariance[:, head]
            pull = scores[:, head] @ own.transpose(-2, -1)  # (B, N queries, N keys, chunk)
            back[:, :, :, 1, head] = (pull.view(batch, count, -1).transpose(1, 2) @ queries[:, head]).view(own.shape)
            back[:, :, :, 2, head] = (weighted[:, head] @ own.view(batch, count, -1)).view(own.shape)
        flat = back.view(batch, count, chunk, -1)
        part += (flat.view(batch * count * chunk, -1) @ qkv).view(part.shape)
        part += (flat @ qkv_x_hat) * x_hat


def _score_matrices(state: BlockState) -> Tensor:
    """`A_ij rstd_j (v_j - o_i)`, `(B, heads, N, N, w)`: a row of it takes a cotangent of `o_i` to that of the score
    `q_i k_j`, times the norm's factor at token j."""
    batch, _, count, _ = state.attention.shape
    spread = state.values.unsqueeze(2) - state.mixed.unsqueeze(3)
    return spread.mul_((state.attention * state.norm1.rstd.view(batch, 1, 1, count)).unsqueeze(-1))


def _first_token_attention(block: VitBlock, state: BlockState, rows: Tensor) -> None:
    """Attention and residual where only the first token's rows `rows[:, :1]` are there; fills the others."""
    batch, count, size, dim = rows.shape
    dtype, heads = rows.dtype, block.heads
    own = rows[:, 0].clone()
    mixed = (own @ block.out.to(dtype)).view(batch, size, heads, -1).transpose(1, 2)
    width = mixed.shape[-1]
    spread = state.values - state.mixed[:, :, :1]
    attention = state.attention[:, :, 0]
    scores = (spread * attention.unsqueeze(-1)).to(dtype)
    query, key, value = block.qkv.to(dtype).view(3, heads, width, dim)
    by_value = mixed @ value
    by_key = state.queries[:, :, :1].to(dtype) @ key
    pull = mixed @ scores.transpose(-2, -1)  # (B, heads, R, N)
    for image in range(batch):
        from_values = attention[image].T.to(dtype) @ by_value[image].view(heads, -1)
        rows[image] = from_values.view(count, size, dim)
        rows[image] += pull[image].permute(2, 1, 0) @ by_key[image, :, 0]
    covariance = scores.transpose(-2, -1) @ state.keys.to(dtype)
    rows[:, 0] += ((mixed @ covariance) @ query).sum(dim=1)
    _through_norm(state.norm1, rows)
    rows[:, 0] += own


def _through_norm(norm: Normed, rows: Tensor) -> None:
    """`(I - x_hat x_hat^T / D) rstd`, in place, on already centred rows `(B, N, R, D)`."""
    x_hat, rstd = norm.x_hat.to(rows.dtype), norm.rstd.to(rows.dtype)
    along = rows @ x_hat.unsqueeze(-1) / rows.shape[3]
    rows -= along * x_hat.unsqueeze(2)
    rows *= rstd.unsqueeze(-1)
