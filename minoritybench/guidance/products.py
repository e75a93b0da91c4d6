"""Products with the encoder's Jacobian, as guidance takes them: few vectors an image, many times.

Three sources behind one interface (`minoritybench.scoring.rsvd.JacobianProducts`), beside the batched graph of
`minoritybench.scoring.jacobian` that whole Jacobians are read from: a graph of copies for any encoder, a vision
transformer linearised by hand, and the finite differences of the published code.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from minoritybench.encoders.base import Encoder, embed
from minoritybench.scoring.jacobian import JacobianGraph
from minoritybench.scoring.rsvd import JacobianProducts
from minoritybench.scoring.vit import LinearisedVit
from minoritybench.scoring.vit.tangent import pull_few, push_forward


class CopiedGraph:
    """The encoder evaluated once at `width` copies of every image: each product is then one ordinary backward.

    For few vectors an image this is faster than one graph under `vmap`, whose rules dominate small networks. Exact; a
    JVP is the derivative of a VJP in its cotangent, as in `JacobianGraph`.
    """

    def __init__(self, encoder: Encoder, prepared: Tensor, width: int) -> None:
        self.width = width
        self._shape = prepared.shape
        self._graph = JacobianGraph(encoder, prepared.repeat_interleave(width, dim=0))
        self.dim, self.inputs = self._graph.dim, self._graph.inputs
        self.z = self._graph.z[::width]

    def vjp(self, vectors: Tensor) -> Tensor:
        """`J^T w` for `(B, l, d)` cotangents, `l <= width`: `(B, l, n)`."""
        return self._unpadded(self._graph.vjp(self._padded(vectors)), vectors)

    def jvp(self, vectors: Tensor) -> Tensor:
        """`J v` for `(B, l, n)` tangents, `l <= width`: `(B, l, d)`."""
        return self._unpadded(self._graph.jvp(self._padded(vectors)), vectors)

    def _padded(self, vectors: Tensor) -> Tensor:
        missing = self.width - vectors.shape[1]
        return torch.nn.functional.pad(vectors, (0, 0, 0, missing)).flatten(0, 1).unsqueeze(1)

    def _unpadded(self, products: Tensor, vectors: Tensor) -> Tensor:
        return products.view(len(vectors), self.width, -1)[:, : vectors.shape[1]]


class LinearisedProducts:
    """A vision transformer linearised by hand at every image; only its patch embedding is left to autograd."""

    def __init__(self, linear: LinearisedVit, prepared: Tensor) -> None:
        self._weights = linear.weights
        self._state = linear.at(prepared)
        self._prepared = prepared.detach()
        self.z = self._state.z
        self.dim, self.inputs = linear.dim, prepared[0].numel()

    def vjp(self, vectors: Tensor) -> Tensor:
        """`J^T w` for `(B, l, d)` cotangents: `(B, l, n)`."""
        batch, count = vectors.shape[:2]
        with torch.no_grad():
            tokens = pull_few(self._weights, self._state, vectors)
        copies, embedded = self._embedded(count)
        (pulled,) = torch.autograd.grad(embedded, copies, tokens.flatten(0, 1))
        return pulled.view(batch, count, -1)

    def jvp(self, vectors: Tensor) -> Tensor:
        """`J v` for `(B, l, n)` tangents: `(B, l, d)`."""
        batch, count = vectors.shape[:2]
        copies, embedded = self._embedded(count)
        cotangent = torch.zeros_like(embedded, requires_grad=True)
        (transposed,) = torch.autograd.grad(embedded, copies, cotangent, create_graph=True)
        (tangents,) = torch.autograd.grad(transposed, cotangent, vectors.reshape(copies.shape))
        with torch.no_grad():
            return push_forward(self._weights, self._state, tangents.view(batch, count, *tangents.shape[1:]))

    def _embedded(self, count: int) -> tuple[Tensor, Tensor]:
        copies = self._prepared.repeat_interleave(count, dim=0).requires_grad_(True)
        with torch.enable_grad():
            return copies, self._weights.embed(copies)


class FiniteDifferences:
    """Exact VJPs, and JVPs as the published code takes them: `(f(u + h v) - f(u)) / h`.

    In float32 most of a unit vector's product is rounding at h = 1e-4; here for comparison only.
    """

    def __init__(self, encoder: Encoder, prepared: Tensor, width: int, step: float) -> None:
        self._encoder, self._prepared, self._step = encoder, prepared.detach(), step
        self._exact = CopiedGraph(encoder, prepared, width)
        self.dim, self.inputs, self.z = self._exact.dim, self._exact.inputs, self._exact.z

    def vjp(self, vectors: Tensor) -> Tensor:
        """`J^T w`, exact, as `CopiedGraph.vjp`."""
        return self._exact.vjp(vectors)

    def jvp(self, vectors: Tensor) -> Tensor:
        """`J v` for `(B, l, n)` tangents of any length, by one-sided differences: `(B, l, d)`."""
        batch, count = vectors.shape[:2]
        here = self._prepared.unsqueeze(1)
        moved = here + self._step * vectors.view(batch, count, *self._prepared.shape[1:])
        with torch.no_grad():
            z = embed(self._encoder, moved.flatten(0, 1)).view(batch, count, -1)
        return (z - self.z.unsqueeze(1)) / self._step


class CountedProducts:
    """Products that count themselves in `passes`, an image: `encoder_vjp`, and `encoder_jvp` or, where a JVP is a
    finite difference, `encoder_forward`. Vectors are counted, not the copies or the padding they travel in."""

    def __init__(self, products: JacobianProducts, passes: Counter[str]) -> None:
        self._products, self._passes = products, passes
        self._jvp = "encoder_forward" if isinstance(products, FiniteDifferences) else "encoder_jvp"
        self.dim, self.inputs = products.dim, products.inputs

    def vjp(self, vectors: Tensor) -> Tensor:
        """`J^T w` for `(B, l, d)` cotangents: `(B, l, n)`."""
        self._passes["encoder_vjp"] += vectors.shape[1]
        return self._products.vjp(vectors)

    def jvp(self, vectors: Tensor) -> Tensor:
        """`J v` for `(B, l, n)` tangents: `(B, l, d)`."""
        self._passes[self._jvp] += vectors.shape[1]
        return self._products.jvp(vectors)
