"""Gradient of `sum_{i<=k} log sigma_i(Q^T J_f)` with the projection Q held constant.

Reference: arXiv:2605.24631 Eq. 11-12 (envelope theorem: the inner randomised SVD is not differentiated).
Differs: the paper forms `Q^T J` with its graph and differentiates an SVD. Here the singular vectors of `Q^T J` are
found first, without a graph; then

    grad sum_i log sigma_i = grad_u sum_i <w_i, J(u) v_i>,   w_i = Q U_i / sigma_i, v_i fixed,

which one reverse-over-reverse pass gives ("dual" form: `g = J^T w` with a graph, then the gradient of `<g, v>`).
Equal to the paper's gradient to rounding, without storing d rows of graphs. A JVP is never differentiated: through
`layer_norm` that gradient is silently wrong in PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minoritybench.encoders.base import Encoder, embed, name_of, null_basis
from minoritybench.errors import BadInputError
from minoritybench.scoring.jacobian import JacobianGraph
from minoritybench.scoring.rsvd import Rsvd, TopK, range_basis, top_k
from minoritybench.scoring.spectrum import LOG_FLOOR, log_sum


@dataclass(frozen=True)
class ScoreGradient:
    """`gradient` has the shape of the prepared input `(B, ...)`; `score` float64 `(B,)` is the top-k sum there; the
    subspace searched had `width` directions, of which the `rank` largest count."""

    gradient: Tensor
    score: Tensor
    width: int
    rank: int


def score_gradient(encoder: Encoder, prepared: Tensor, rsvd: Rsvd, probes: Tensor) -> ScoreGradient:
    """Gradient of the top-k JEPA-SCORE with respect to the prepared input.

    `prepared` `(B, ...)` is the network input; `probes` `(B, k + p, n)` the random tangents of the range finder. The
    head's structural null directions never enter. Row i of the result depends on row i of the inputs alone. An encoder
    whose Jacobian is constant gives zeros.
    """
    graph = JacobianGraph(encoder, prepared)
    basis = range_basis(graph, probes, rsvd.q, null_basis(encoder, graph.z))
    triplets = top_k(graph, basis, rsvd.k)
    if not triplets.sigma.isfinite().all():
        raise BadInputError(
            f"{name_of(encoder)}: its Jacobian is not finite at a guided image; choose gentler guidance (--set)"
        )
    del graph  # its second-order graph is the largest thing alive; free it before building the next
    gradient = dual_gradient(encoder, prepared, triplets)
    return ScoreGradient(gradient, log_sum(triplets.sigma), width=basis.shape[2], rank=triplets.sigma.shape[1])


def dual_gradient(encoder: Encoder, prepared: Tensor, triplets: TopK) -> Tensor:
    """`grad_u sum_{i<=k} <w_i, J(u) v_i>` at `prepared`, with `w_i = left_i / sigma_i` and `v_i = right_i` constant.

    Values at the log floor contribute nothing, as the clamped logarithm has no slope there.
    """
    sigma = triplets.sigma
    weight = torch.where(sigma > LOG_FLOOR, 1.0 / sigma.clamp_min(LOG_FLOOR), 0.0)
    w = (triplets.left * weight.unsqueeze(-1)).to(prepared.dtype).flatten(0, 1)
    k = sigma.shape[1]
    copies = prepared.detach().repeat_interleave(k, dim=0).requires_grad_(True)
    with torch.enable_grad():
        z = embed(encoder, copies)
        (pulled,) = torch.autograd.grad(z, copies, w, create_graph=True)
        if not pulled.requires_grad:  # J does not depend on u (a linear encoder): the score is constant
            return torch.zeros_like(prepared)
        # the right vector of a vanished value is undefined, and 0 * inf would poison its neighbours
        alive = (sigma > LOG_FLOOR).unsqueeze(-1)
        v = torch.where(alive, triplets.right, 0.0).to(prepared.dtype).reshape(copies.shape)
        # materialize_grads: an encoder may use no input twice over, and then the second derivative is zero, not absent
        (gradient,) = torch.autograd.grad((pulled * v).sum(), copies, materialize_grads=True)
    return gradient.reshape(-1, k, *prepared.shape[1:]).sum(dim=1)
