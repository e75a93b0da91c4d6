"""Cotangents pulled back through a linearised vision transformer, all rows of a batch at once.

A block of cotangents is `(B, N, R, D)`: R rows at each of N tokens. Nothing here is approximate but the arithmetic:
every product is that of the chain rule, with the constants of `minoritybench.scoring.vit.forward`.

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

_CHUNK_ELEMENTS = 1 << 25
"""Cotangents of queries, keys and values held at a time; bounds the rows of a chunk."""
_MLP_ROWS = 1 << 12
"""Rows times tokens pushed through the two layers of an MLP at a time."""
_MLP_ELEMENTS = 1 << 20
"""Scaled MLP weights held at a time; bounds the tokens of a block."""


class _Scratch:
    """Buffers that all blocks share: fresh large ones would be paged in anew at every use."""

    def __init__(self, weights: VitWeights, rows: Tensor) -> None:
        batch, count, size, dim = rows.shape
        heads, attention = weights.blocks[0].heads, weights.blocks[0].out.shape[1]
        self.step = min(size, max(16, -(-_CHUNK_ELEMENTS // (3 * attention * batch * count)) // 16 * 16))
        tokens, head = batch * count * self.step, attention // heads
        self._buffers = [
            rows.new_empty(tokens * n) for n in (dim, max(dim, attention), head, head, count, 3 * attention)
        ]

    def views(self, batch: int, count: int, chunk: int) -> tuple[Tensor, ...]:
        """The buffers as `(B * N * chunk, ...)` matrices: rows, product, one head's cotangent and result, scores and
        the cotangents of query, key and value."""
        full, tokens = batch * count * self.step, batch * count * chunk
        return tuple(buffer[: buffer.numel() // full * tokens].view(tokens, -1) for buffer in self._buffers)


def pull_back(weights: VitWeights, state: VitState, cotangents: Tensor, out: Tensor) -> None:
    """Fill `out` `(B, N, R, D)` with the cotangents of all embedded tokens, for output cotangents `(B, R, D)`.

    The arithmetic is done in `out`'s dtype; `out` may be a view of a larger buffer.
    """
    blocks = list(zip(weights.blocks, state.blocks, strict=True))
    scratch = _Scratch(weights, out)
    chunks = [slice(start, start + scratch.step) for start in range(0, out.shape[2], scratch.step)]
    if weights.pool == "first":
        _head(weights, _first(state.norm), cotangents, out[:, :1])
        block, block_state = blocks.pop()
        _mlp(block, block_state, out[:, :1])
        for chunk in chunks:
            _first_token_attention(block, block_state, out[:, :, chunk])
    else:
        share = cotangents / state.norm.x_hat.shape[1]
        for chunk in chunks:
            _head(weights, state.norm, share[:, chunk], out[:, :, chunk])
    for block, block_state in reversed(blocks):
        _mlp(block, block_state, out)
        _attention(block, block_state, out, scratch)


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
    # Products: D^2 F to form a token's matrix and D^2 a row through it, against D F + D H a row through the two layers.
    # Reduced precision goes through the layers always: there only the larger products run at the matrix units' speed.
    if rows.dtype.itemsize < 4 or size * (inner + block.down.shape[1]) < dim * (inner + size):
        step = max(16, _MLP_ROWS // (batch * count) // 16 * 16)
        for start in range(0, size, step):
            _mlp_rows(block, state, rows[:, :, start : start + step])
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
    """The same without forming a matrix, for few rows."""
    count, dim = rows.shape[1], rows.shape[3]
    dtype = rows.dtype
    slopes = (state.slopes * state.norm2.rstd)[:, :count].unsqueeze(2).to(dtype)
    hidden = (rows.reshape(-1, dim) @ block.down.to(dtype)).view(*rows.shape[:3], -1)
    if block.activation == "swiglu":
        hidden = hidden.repeat(1, 1, 1, 2)
    hidden *= slopes
    along = hidden @ state.up_x_hat[:, :count].to(dtype).unsqueeze(-1)
    rows += (hidden.view(-1, hidden.shape[3]) @ block.up.to(dtype)).view(rows.shape)
    rows.addcmul_(along, (state.norm2.x_hat[:, :count] / -dim).to(dtype).unsqueeze(2))


def _attention(block: VitBlock, state: BlockState, rows: Tensor, scratch: _Scratch) -> None:
    """Attention and residual, in place, on rows `(B, N, R, D)`."""
    batch, count, size, dim = rows.shape
    dtype, heads = rows.dtype, block.heads
    out, qkv = block.out.to(dtype), block.qkv.to(dtype)
    scores, weighted, queries, covariance = (part.to(dtype) for part in _attention_matrices(state))
    x_hat = (state.norm1.x_hat / -dim).to(dtype).unsqueeze(2)
    qkv_x_hat = state.qkv_x_hat.to(dtype).unsqueeze(-1).flatten(0, 1)
    for start in range(0, size, scratch.step):
        part = rows[:, :, start : start + scratch.step]
        chunk = part.shape[2]
        flat, product, own, result, pull, back = scratch.views(batch, count, chunk)
        flat.view(part.shape).copy_(part)
        mixed = torch.mm(flat, out, out=product[:, : out.shape[1]]).view(batch * count * chunk, heads, -1)
        by_head = back.view(batch * count * chunk, 3, heads, -1)
        width = own.shape[1]
        per_query, per_image = (batch * count, chunk, width), (batch, count, chunk * width)
        for head in range(heads):
            own.copy_(mixed[:, head])
            torch.bmm(own.view(per_query), covariance[head], out=result.view(per_query))
            by_head[:, 0, head] = result
            torch.bmm(scores[head], own.view(per_query).transpose(1, 2), out=pull.view(batch * count, count, chunk))
            by_key = pull.view(batch, count, count * chunk).transpose(1, 2)
            torch.bmm(by_key, queries[head], out=result.view(batch, count * chunk, width))
            by_head[:, 1, head] = result
            torch.bmm(weighted[head], own.view(per_image), out=result.view(per_image))
            by_head[:, 2, head] = result
        along = torch.bmm(back.view(batch * count, chunk, -1), qkv_x_hat).view(batch, count, chunk, 1)
        part += torch.mm(back, qkv, out=flat).view(part.shape)
        part.addcmul_(along, x_hat)


def _attention_matrices(state: BlockState) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the cotangents of one head's mixed values are multiplied with, all with the head first.

    `(heads, B N, N, w)` to the scores, see `_score_matrices`; `(heads, B, N, N)` to the values, `A^T` with the norm's
    factor; `(heads, B, N, w)` queries; `(heads, B N, w, w)` to the queries, `Cov_A(v, k)` with the norm's factor.
    """
    batch, _, count, _ = state.attention.shape
    rstd = state.norm1.rstd.view(batch, 1, count, 1)
    spread = (state.values.unsqueeze(2) - state.mixed.unsqueeze(3)).mul_(state.attention.unsqueeze(-1))
    # One head at a time: the product over all would hold expanded copies of keys and spread.
    by_head = [spread[:, head].transpose(-2, -1) @ state.keys[:, head].unsqueeze(1) for head in range(spread.shape[1])]
    covariance = torch.stack(by_head, dim=1).mul_(rstd.unsqueeze(-1))
    spread.mul_(rstd.unsqueeze(2))
    weighted = state.attention.transpose(-2, -1) * rstd
    return (
        spread.transpose(0, 1).flatten(1, 2),
        weighted.transpose(0, 1).contiguous(),
        state.queries.transpose(0, 1).contiguous(),
        covariance.transpose(0, 1).flatten(1, 2),
    )


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
