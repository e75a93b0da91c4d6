"""Gradient of `sum_{i<=k} log sigma_i(Q^T J_f)` with the projection Q held constant.

Reference: arXiv:2605.24631 Eq. 11-12 (envelope theorem: the inner randomised SVD is not differentiated).
Differs: the paper forms `Q^T J` with its graph and differentiates an SVD. Here the singular vectors of `Q^T J` are
found first, without a graph; then

    grad sum_i log sigma_i = grad_u sum_i <w_i, J(u) v_i>,   w_i = Q U_i / sigma_i, v_i fixed,

which one reverse-over-reverse pass gives ("dual" form: `g = J^T w` with a graph, then the gradient of `<g, v>`), or
central differences of `J(u)^T w_i` along v_i, which need no second derivative. Equal to the paper's gradient to
rounding (the latter: to a few 1e-4 in float32), without storing d rows of graphs. A JVP is never differentiated:
through `layer_norm` that gradient is silently wrong in PyTorch.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from minoritybench.encoders.base import Encoder, embed
from minoritybench.guidance.subspace import RangeFinder, derivatives_of
from minoritybench.scoring.rsvd import Rsvd, TopK
from minoritybench.scoring.spectrum import LOG_FLOOR, log_sum

GradientForm = Literal["dual", "central-difference"]

_ELEMENTS_AT_ONCE = 1 << 17
"""Input elements differentiated twice at a time on a CPU: one image of 224 px, thirteen of 56 px, any of digits."""
DIFFERENCE = 5e-3
"""Half the distance of central differences, along unit vectors of the prepared input. In float32 the gradient is then
within 6e-4 (median) of the dual one on the digits encoders and a random ViT-S at 56 px; best steps are 3e-3 to 3e-2."""


@dataclass(frozen=True)
class ScoreGradient:
    """`gradient` has the shape of the prepared input `(B, ...)`; `score` float64 `(B,)` is the top-k sum there; `found`
    are all triplets of the subspace searched; `passes` is what an image cost, each of the encoder's networks evaluated
    or differentiated once, as automatic differentiation needs it: a form by hand may share some of them."""

    gradient: Tensor
    score: Tensor
    found: TopK
    passes: Counter[str]


def score_gradient(
    encoder: Encoder,
    prepared: Tensor,
    finder: RangeFinder | Rsvd,
    start: Tensor,
    *,
    form: GradientForm = "dual",
    floor: float = LOG_FLOOR,
) -> ScoreGradient:
    """Gradient of the top-k JEPA-SCORE with respect to the prepared input.

    `prepared` `(B, ...)` is the network input; `start` `(B, k + p, n)` the tangents that the range finder begins with:
    random, or those of a state nearby. The head's structural null directions never enter (but in the published code's
    products). Row i of the result depends on row i of the inputs alone. An encoder whose Jacobian is constant gives
    zeros; one that is not finite at an image, NaN there. `floor` is the least singular value under the logarithm.
    """
    finder = RangeFinder(finder) if isinstance(finder, Rsvd) else finder
    known = derivatives_of(encoder, prepared)
    passes: Counter[str] = Counter()
    # The graphs of the search are freed with it, before the next ones are built.
    found = finder.find(encoder, prepared, start, known, passes)
    top = found.first(finder.rsvd.k)
    rank = top.sigma.shape[1]
    if form == "central-difference":
        gradient = difference_gradient(encoder, prepared, top, floor)
        passes.update(encoder_forward=2 * rank, encoder_vjp=2 * rank)
    else:
        if known is None:
            gradient = dual_gradient(encoder, prepared, top, floor)
        else:
            gradient = known.gradient(*_factors(top, prepared, floor))
        passes.update(encoder_forward=rank, encoder_double_backward=rank)
    defined = found.sigma.isfinite().all(dim=1).view(-1, *[1] * (gradient.ndim - 1))
    return ScoreGradient(torch.where(defined, gradient, torch.nan), log_sum(top.sigma), found, passes)


def dual_gradient(encoder: Encoder, prepared: Tensor, triplets: TopK, floor: float = LOG_FLOOR) -> Tensor:
    """`grad_u sum_{i<=k} <w_i, J(u) v_i>` at `prepared`, with `w_i = left_i / sigma_i` and `v_i = right_i` constant.

    Values at the log floor contribute nothing, as the clamped logarithm has no slope there.
    """
    w, v = _copied(*_factors(triplets, prepared, floor), prepared)
    k = triplets.sigma.shape[1]
    copies = prepared.detach().repeat_interleave(k, dim=0)
    # Few large copies at a time: second-order graphs are the peak of memory, and past the caches no faster together.
    step = max(1, _ELEMENTS_AT_ONCE // prepared[0].numel()) if prepared.device.type == "cpu" else len(copies)
    parts = [
        _second_order(encoder, *part) for part in zip(*(torch.split(x, step) for x in (copies, w, v)), strict=True)
    ]
    return torch.cat(parts).reshape(-1, k, *prepared.shape[1:]).sum(dim=1)


def _second_order(encoder: Encoder, inputs: Tensor, w: Tensor, v: Tensor) -> Tensor:
    """`grad_u <w, J(u) v>` of every input, reverse over reverse."""
    leaf = inputs.clone().requires_grad_(True)
    with torch.enable_grad():
        (pulled,) = torch.autograd.grad(embed(encoder, leaf), leaf, w, create_graph=True)
        if not pulled.requires_grad:  # J does not depend on u (a linear encoder): the score is constant
            return torch.zeros_like(inputs)
        # materialize_grads: an encoder may use no input twice over, and then the second derivative is zero, not absent
        (gradient,) = torch.autograd.grad((pulled * v).sum(), leaf, materialize_grads=True)
    return gradient


def difference_gradient(encoder: Encoder, prepared: Tensor, triplets: TopK, floor: float = LOG_FLOOR) -> Tensor:
    """The same by central differences: `sum_i (J(u + h v_i)^T w_i - J(u - h v_i)^T w_i) / 2h`.

    First derivatives only, and cheaper; `h` is `DIFFERENCE`.
    """
    w, v = _copied(*_factors(triplets, prepared, floor), prepared)
    k = triplets.sigma.shape[1]
    centre = prepared.detach().repeat_interleave(k, dim=0)
    both = torch.cat([centre + DIFFERENCE * v, centre - DIFFERENCE * v]).requires_grad_(True)
    with torch.enable_grad():
        z = embed(encoder, both)
        (pulled,) = torch.autograd.grad(z, both, torch.cat([w, -w]))
    ahead, behind = (pulled / (2 * DIFFERENCE)).chunk(2)
    return (ahead + behind).reshape(-1, k, *prepared.shape[1:]).sum(dim=1)


def _factors(triplets: TopK, prepared: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """`w` `(B, k, d)` and `v` `(B, k, n)`; zeros for values at the floor, whose right vectors are undefined."""
    sigma = triplets.sigma
    alive = (sigma > floor).unsqueeze(-1)
    w = torch.where(alive, triplets.left / sigma.clamp_min(floor).unsqueeze(-1), 0.0)
    # 0 * inf would poison the neighbours of an undefined right vector
    return w.to(prepared.dtype), torch.where(alive, triplets.right, 0.0).to(prepared.dtype)


def _copied(w: Tensor, v: Tensor, prepared: Tensor) -> tuple[Tensor, Tensor]:
    """The same for k copies of every image: `(B k, d)` and `(B k, ...)`."""
    return w.flatten(0, 1), v.reshape(-1, *prepared.shape[1:])
