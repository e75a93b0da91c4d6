"""Few vectors through a linearised vision transformer: `J v` (tangents pushed forward) and `J^T w` (pulled back).

A block of vectors is `(B, R, N, D)`: R of them at each of N tokens. The constants are those of
`minoritybench.scoring.vit.forward`; nothing is approximate but the arithmetic. `pull_back` of
`minoritybench.scoring.vit.backward` first forms matrices that pay off over all d rows of a Jacobian; for few vectors
that preparation would cost ten times the products.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from minoritybench.scoring.vit.forward import BlockState, Normed, VitState
from minoritybench.scoring.vit.weights import VitBlock, VitWeights


def push_forward(weights: VitWeights, state: VitState, tangents: Tensor) -> Tensor:
    """Output tangents `(B, R, d)` for tangents `(B, R, N, D)` of all embedded tokens."""
    rows = tangents
    last = len(weights.blocks) - 1
    for number, (block, block_state) in enumerate(zip(weights.blocks, state.blocks, strict=True)):
        queries = 1 if weights.pool == "first" and number == last else rows.shape[2]
        rows = rows[:, :, :queries] + _attention(block, block_state, rows, queries)
        rows = rows + _mlp(block, block_state, rows)
    moved = _normed(state.norm, rows)
    pooled = moved[:, :, 0] if weights.pool == "first" else moved.mean(dim=2)
    return pooled * weights.norm_weight


def pull_few(weights: VitWeights, state: VitState, cotangents: Tensor) -> Tensor:
    """Cotangents `(B, R, N, D)` of all embedded tokens for output cotangents `(B, R, d)`: the transpose."""
    count = state.norm.x_hat.shape[1]
    scaled = (cotangents * weights.norm_weight).unsqueeze(2)
    rows = _normed(state.norm, scaled if weights.pool == "first" else (scaled / count).expand(-1, -1, count, -1))
    for block, block_state in zip(reversed(weights.blocks), reversed(state.blocks), strict=True):
        rows = rows + _mlp_back(block, block_state, rows)
        rows = pad(rows, (0, 0, 0, count - rows.shape[2])) + _attention_back(block, block_state, rows)
    return rows


def _attention(block: VitBlock, state: BlockState, rows: Tensor, queries: int) -> Tensor:
    """What attention adds to the tangents of the first `queries` tokens."""
    moved = _behind_norm(state.norm1, state.qkv_x_hat, block.qkv, rows)
    parts = moved.view(*rows.shape[:3], 3, block.heads, -1).permute(3, 0, 4, 1, 2, 5)
    query, key, value = parts[0][:, :, :, :queries], parts[1], parts[2]  # (B, heads, R, N, w)
    attention = state.attention[:, :, :queries].unsqueeze(2)
    scores = query @ state.keys.transpose(-2, -1).unsqueeze(2)
    scores = scores + state.queries[:, :, :queries].unsqueeze(2) @ key.transpose(-2, -1)
    weighted = attention * scores
    mixed = weighted @ state.values.unsqueeze(2) + attention @ value
    mixed = mixed - weighted.sum(dim=-1, keepdim=True) * state.mixed[:, :, :queries].unsqueeze(2)
    joined = mixed.permute(0, 2, 3, 1, 4).flatten(3)
    return joined @ block.out.T


def _mlp(block: VitBlock, state: BlockState, rows: Tensor) -> Tensor:
    """What the MLP adds to the tangents of the first tokens, as many as `rows` has."""
    count = rows.shape[2]
    norm = Normed(state.norm2.x_hat[:, :count], state.norm2.rstd[:, :count])
    hidden = _behind_norm(norm, state.up_x_hat[:, :count], block.up, rows) * state.slopes[:, :count].unsqueeze(1)
    if block.activation == "swiglu":
        gate, value = hidden.chunk(2, dim=-1)
        hidden = gate + value
    return hidden @ block.down.T


def _attention_back(block: VitBlock, state: BlockState, rows: Tensor) -> Tensor:
    """Transpose of `_attention`, from the first tokens, as many as `rows` has, to all."""
    queries, count = rows.shape[2], state.keys.shape[2]
    mixed = (rows @ block.out).view(*rows.shape[:3], block.heads, -1).permute(0, 3, 1, 2, 4)  # (B, heads, R, N, w)
    attention = state.attention[:, :, :queries].unsqueeze(2)
    pull = mixed @ state.values.unsqueeze(2).transpose(-2, -1)
    along = (mixed * state.mixed[:, :, :queries].unsqueeze(2)).sum(dim=-1, keepdim=True)
    scores = attention * (pull - along)
    query = pad(scores @ state.keys.unsqueeze(2), (0, 0, 0, count - queries))
    key = scores.transpose(-2, -1) @ state.queries[:, :, :queries].unsqueeze(2)
    value = attention.transpose(-2, -1) @ mixed
    parts = torch.stack([query, key, value]).permute(1, 3, 4, 0, 2, 5).flatten(3)  # (B, R, N, 3A)
    return _behind_norm_back(state.norm1, state.qkv_x_hat, block.qkv, parts)


def _mlp_back(block: VitBlock, state: BlockState, rows: Tensor) -> Tensor:
    """Transpose of `_mlp`."""
    count = rows.shape[2]
    norm = Normed(state.norm2.x_hat[:, :count], state.norm2.rstd[:, :count])
    hidden = rows @ block.down
    hidden = torch.cat([hidden, hidden], dim=-1) if block.activation == "swiglu" else hidden
    hidden = hidden * state.slopes[:, :count].unsqueeze(1)
    return _behind_norm_back(norm, state.up_x_hat[:, :count], block.up, hidden)


def _behind_norm_back(norm: Normed, at_x_hat: Tensor, matrix: Tensor, rows: Tensor) -> Tensor:
    """Transpose of `_behind_norm`."""
    along = (rows * at_x_hat.unsqueeze(1)).sum(dim=-1, keepdim=True) / norm.x_hat.shape[2]
    return (rows @ matrix - along * norm.x_hat.unsqueeze(1)) * norm.rstd.unsqueeze(1)


def _behind_norm(norm: Normed, at_x_hat: Tensor, matrix: Tensor, rows: Tensor) -> Tensor:
    """Tangents of `matrix x_hat`; the matrix's rows are centred, so that the tangents need not be."""
    along = (rows * norm.x_hat.unsqueeze(1)).mean(dim=-1, keepdim=True)
    return (rows @ matrix.T - along * at_x_hat.unsqueeze(1)) * norm.rstd.unsqueeze(1)


def _normed(norm: Normed, rows: Tensor) -> Tensor:
    """Tangents of the final norm's `x_hat` at the first tokens, as many as `rows` has."""
    x_hat, rstd = (part[:, : rows.shape[2]].unsqueeze(1) for part in (norm.x_hat, norm.rstd))
    centred = rows - rows.mean(dim=-1, keepdim=True)
    return (centred - (centred * x_hat).mean(dim=-1, keepdim=True) * x_hat) * rstd
