"""Where guidance looks for the top singular subspace of the encoder's Jacobian, and from which products."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from minoritybench.encoders.base import Encoder, null_basis, require_same_output
from minoritybench.guidance.products import CopiedGraph, CountedProducts, FiniteDifferences, LinearisedProducts
from minoritybench.scoring.lanczos import Lanczos, lanczos_top_k
from minoritybench.scoring.rsvd import JacobianProducts, Rsvd, TopK, orthonormal, range_basis, top_k
from minoritybench.scoring.vit import LinearisedVit

PUBLISHED_DIFFERENCE = 1e-4
"""Step of the published code's finite differences, in normalised pixels."""


class Derivatives(JacobianProducts, Protocol):
    """First and second derivatives of an encoder at given inputs, without automatic differentiation."""

    z: Tensor

    def gradient(self, left: Tensor, right: Tensor) -> Tensor:
        """`grad_u sum_i <w_i, J(u) v_i>` for `w` `(B, k, d)` and `v` `(B, k, n)`, in the shape of the inputs."""
        ...


def derivatives_of(encoder: Encoder, prepared: Tensor) -> Derivatives | None:
    """What the encoder itself offers of the kind at `prepared` `(B, ...)`."""
    offered: Callable[[Tensor], Derivatives | None] | None = getattr(encoder, "derivatives", None)
    known = None if offered is None else offered(prepared.detach())
    if known is not None:
        require_same_output(encoder, prepared.detach(), known.z, "derivatives")
    return known


@dataclass(frozen=True)
class RangeFinder:
    """How the subspace is found, from `k + p` start vectors and `q` rounds of `J J^T`; `2 (k + p) (q + 1)` products.

    `lanczos` keeps every block that the rounds go through, `rsvd` the last one (Algorithm 1 of the paper). `products`
    `finite-difference` takes JVPs, and their order, from the published code.
    """

    rsvd: Rsvd
    kind: Literal["rsvd", "lanczos"] = "rsvd"
    products: Literal["exact", "finite-difference"] = "exact"

    def find(
        self,
        encoder: Encoder,
        prepared: Tensor,
        start: Tensor,
        known: Derivatives | None = None,
        passes: Counter[str] | None = None,
    ) -> TopK:
        """The `k + p` largest triplets at `prepared` `(B, ...)`, or fewer where the Jacobian has no room for them.

        `start` `(B, k + p, n)` are tangents: random ones, or right singular vectors found nearby. `known` are the
        derivatives there, if somebody has them; exact products are then theirs. `passes` is added what an image cost.
        """
        passes = Counter() if passes is None else passes
        passes["encoder_forward"] += 1
        if self.products == "finite-difference":
            differences = FiniteDifferences(encoder, prepared, self.rsvd.probes, PUBLISHED_DIFFERENCE)
            counted = CountedProducts(differences, passes)
            return top_k(counted, published_basis(counted, start, self.rsvd.q), self.rsvd.probes)
        exact, z = (known, known.z) if known else exact_products(encoder, prepared, self.rsvd.probes)
        products, nulls = CountedProducts(exact, passes), null_basis(encoder, z)
        if self.kind == "rsvd":
            return top_k(products, range_basis(products, start, self.rsvd.q, nulls), self.rsvd.probes)
        case = Lanczos(self.rsvd.probes, self.rsvd.probes, self.rsvd.q + 1)
        return lanczos_top_k(products, start, case, nulls)


def exact_products(encoder: Encoder, prepared: Tensor, width: int) -> tuple[JacobianProducts, Tensor]:
    """Products at `prepared` for up to `width` vectors an image, and the encoder's output there.

    By the encoder's hand-linearised form where it has one, else by its own graph.
    """
    offered: Callable[[], LinearisedVit | None] | None = getattr(encoder, "linearised", None)
    linear = None if offered is None else offered()
    if linear is None:
        graph = CopiedGraph(encoder, prepared, width)
        return graph, graph.z
    products = LinearisedProducts(linear, prepared)
    require_same_output(encoder, prepared, products.z, "linearised")
    return products, products.z


def published_basis(products: JacobianProducts, probes: Tensor, q: int) -> Tensor:
    """The range finder in the published code's order: the first sketch is not orthonormalised before its first round.

    With exact products the subspace is that of `range_basis`; with finite differences the lengths of vectors matter.
    """
    sketch = products.jvp(torch.nn.functional.normalize(probes, dim=2))
    for _ in range(q):
        sketch = orthonormal(products.jvp(products.vjp(sketch))).transpose(1, 2)
    return orthonormal(sketch)
