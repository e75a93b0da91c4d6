"""Tangents pushed forward through a linearised vision transformer: `J v`, the counterpart of `pull_back`.

A block of tangents is `(B, R, N, D)`: R directions at each of N tokens. The constants are those of
`minoritybench.scoring.vit.forward`; nothing is approximate but the arithmetic.
"""

from __future__ import annotations

from torch import Tensor

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


def _behind_norm(norm: Normed, at_x_hat: Tensor, matrix: Tensor, rows: Tensor) -> Tensor:
    """Tangents of `matrix x_hat`; the matrix's rows are centred, so that the tangents need not be."""
    along = (rows * norm.x_hat.unsqueeze(1)).mean(dim=-1, keepdim=True)
    return (rows @ matrix.T - along * at_x_hat.unsqueeze(1)) * norm.rstd.unsqueeze(1)


def _normed(norm: Normed, rows: Tensor) -> Tensor:
    """Tangents of the final norm's `x_hat` at the first tokens, as many as `rows` has."""
    x_hat, rstd = (part[:, : rows.shape[2]].unsqueeze(1) for part in (norm.x_hat, norm.rstd))
    centred = rows - rows.mean(dim=-1, keepdim=True)
    return (centred - (centred * x_hat).mean(dim=-1, keepdim=True) * x_hat) * rstd
