"""The weights of a pre-norm vision transformer, folded so that its Jacobian is products alone.

Every LayerNorm is `x_hat * gamma + beta` with `x_hat` centred, so gamma and the centring go into the matrix behind it,
beta into that matrix's bias, LayerScale into the matrix before it and the softmax scale into the queries. Folding is
done in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class VitBlock:
    """One block with width D, attention width A = heads * head width, and F rows that enter the MLP's activation.

    `qkv` `(3A, D)`, `out` `(D, A)`, `up` `(F, D)`, `down` `(D, H)`; with GELU H = F, with SwiGLU H = F / 2 and the
    gate's rows stand first in `up`. `eps` are those of the two LayerNorms.
    """

    heads: int
    qkv: Tensor
    qkv_bias: Tensor
    out: Tensor
    out_bias: Tensor
    up: Tensor
    up_bias: Tensor
    down: Tensor
    down_bias: Tensor
    eps: tuple[float, float]
    activation: Literal["gelu", "swiglu"]


@dataclass(frozen=True)
class VitWeights:
    """A vision transformer that ends in a LayerNorm.

    `embed` maps the prepared input to all tokens `(B, N, D)`; the patch tokens are the last ones, from `first_patch`
    on, and those before them do not depend on the input. `patch_factor` `(D, m)` is the patch embedding's matrix or,
    where a patch has more than D pixels, the triangular factor with the same Gram matrix. `pool` names the output: the
    first token (`"first"`) or the mean over all tokens (`"mean"`).
    """

    embed: Callable[[Tensor], Tensor]
    first_patch: int
    patch_factor: Tensor
    blocks: tuple[VitBlock, ...]
    norm_weight: Tensor
    norm_bias: Tensor
    norm_eps: float
    pool: Literal["first", "mean"]

    @property
    def dim(self) -> int:
        """Width D of tokens and output."""
        return self.norm_weight.shape[0]


def fold_block(
    *,
    heads: int,
    norms: tuple[nn.LayerNorm, nn.LayerNorm],
    qkv: tuple[nn.Linear, ...],
    out: nn.Linear,
    up: tuple[nn.Linear, ...],
    down: nn.Linear,
    scales: tuple[Tensor, Tensor] | None,
) -> VitBlock:
    """A folded block from its modules.

    `qkv` is one stacked linear or three; `up` one linear (GELU) or gate and up projection (SwiGLU); `scales` the two
    LayerScales, if any.
    """
    qkv_weight, qkv_bias = _behind_norm(norms[0], qkv)
    queries = qkv_weight.shape[0] // 3
    scale = (queries // heads) ** -0.5
    qkv_weight[:queries] *= scale
    qkv_bias[:queries] *= scale
    up_weight, up_bias = _behind_norm(norms[1], up)
    out_weight, out_bias = _before_scale(out, None if scales is None else scales[0])
    down_weight, down_bias = _before_scale(down, None if scales is None else scales[1])
    dtype = out.weight.dtype
    return VitBlock(
        heads=heads,
        qkv=qkv_weight.to(dtype),
        qkv_bias=qkv_bias.to(dtype),
        out=out_weight.to(dtype),
        out_bias=out_bias.to(dtype),
        up=up_weight.to(dtype),
        up_bias=up_bias.to(dtype),
        down=down_weight.to(dtype),
        down_bias=down_bias.to(dtype),
        eps=(norms[0].eps, norms[1].eps),
        activation="gelu" if len(up) == 1 else "swiglu",
    )


def patch_factor(weight: Tensor) -> Tensor:
    """`(D, m)` with the Gram matrix of a patch embedding's weight `(D, ...)`, `m = min(D, pixels of a patch)`.

    Patches do not overlap, so `J = J_tokens (I x W)` has the singular values of `J_tokens (I x L)` for any L with
    `L L^T = W W^T`. A QR factor rather than a Cholesky one: trained filters may be close to dependent.
    """
    matrix = weight.detach().flatten(1).to(torch.float64)
    if matrix.shape[1] > matrix.shape[0]:
        matrix = torch.linalg.qr(matrix.T, mode="r").R.T
    return matrix.to(weight.dtype).contiguous()


def _behind_norm(norm: nn.LayerNorm, linears: tuple[nn.Linear, ...]) -> tuple[Tensor, Tensor]:
    """Weight and bias, float64, of stacked linears as functions of the norm's `x_hat`."""
    weight = torch.cat([linear.weight.detach() for linear in linears]).to(torch.float64)
    bias = torch.cat([_bias(linear) for linear in linears]) + weight @ norm.bias.detach().to(torch.float64)
    scaled = weight * norm.weight.detach().to(torch.float64)
    return scaled - scaled.mean(dim=1, keepdim=True), bias


def _before_scale(linear: nn.Linear, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weight and bias, float64, of a linear followed by LayerScale."""
    weight, bias = linear.weight.detach().to(torch.float64), _bias(linear)
    if scale is None:
        return weight, bias
    wide = scale.detach().to(torch.float64)
    return weight * wide.unsqueeze(1), bias * wide


def _bias(linear: nn.Linear) -> Tensor:
    bias: Tensor | None = linear.bias
    if bias is None:
        return linear.weight.new_zeros(linear.out_features, dtype=torch.float64)
    return bias.detach().to(torch.float64)
