"""Products with the encoder's Jacobian, by reverse mode only.

Forward mode is avoided throughout: differentiating a JVP through `torch.nn.functional.layer_norm` gives a silently
wrong gradient (pytorch/pytorch#196700), and forward mode is slower than reverse mode on small CPU networks. A JVP here
is the derivative of a VJP with respect to its cotangent, which is exact and needs no forward-mode rules.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minoritybench.encoders.base import Encoder, embed, name_of
from minoritybench.errors import BadInputError

ROWS_PER_CHUNK = 16
"""Cotangents pushed back through one graph at a time: the flat optimum between 8 and 32 on CPUs."""


class JacobianGraph:
    """The encoder evaluated once at `prepared` `(B, ...)`, its graph kept for many products.

    `J` is `(B, d, n)` with `n` the number of elements of one prepared image. `vjp`/`jvp` take and return batches of
    `l` vectors an image. Usable as long as the object lives; drop it to free the graph.
    """

    def __init__(self, encoder: Encoder, prepared: Tensor) -> None:
        self.prepared = prepared.detach().requires_grad_(True)
        with torch.enable_grad():
            z = embed(encoder, self.prepared)
            if z.ndim != 2 or z.shape[0] != prepared.shape[0]:
                raise BadInputError(
                    f"the encoder must map {tuple(prepared.shape)} to (B, d), it returned {tuple(z.shape)}"
                )
            if not z.requires_grad:
                raise BadInputError(
                    f"encoder {name_of(encoder)}: its output has no gradient; its __call__ must be differentiable"
                    " (no torch.no_grad, no torch.inference_mode, no detach)"
                )
            self._z = z
            # A zero cotangent whose VJP stays differentiable in it: d <J^T w, v> / dw = J v.
            self._cotangent = torch.zeros_like(z, requires_grad=True)
            self._transposed: Tensor | None = None
        self.z = z.detach()
        self.batch, self.dim = z.shape
        self.inputs = prepared[0].numel()

    def vjp(self, vectors: Tensor, chunk: int = ROWS_PER_CHUNK) -> Tensor:
        """`J^T w` for `(B, l, d)` cotangents: `(B, l, n)`."""
        cotangents = vectors.to(self._z.dtype).transpose(0, 1)
        return _pulled(self._z, self.prepared, cotangents, chunk).flatten(2).transpose(0, 1)

    def jvp(self, vectors: Tensor, chunk: int = ROWS_PER_CHUNK) -> Tensor:
        """`J v` for `(B, l, n)` tangents: `(B, l, d)`, as the cotangent derivative of a VJP."""
        if self._transposed is None:
            (self._transposed,) = torch.autograd.grad(
                self._z, self.prepared, self._cotangent, create_graph=True, retain_graph=True
            )
        tangents = vectors.to(self._z.dtype).transpose(0, 1)
        tangents = tangents.reshape(*tangents.shape[:2], *self.prepared.shape[1:])
        return _pulled(self._transposed, self._cotangent, tangents, chunk).transpose(0, 1)

    def rows(self, chunk: int = ROWS_PER_CHUNK, images: slice = slice(None)) -> Tensor:
        """The whole Jacobian `(B, d, n)`, or that of some images; all of them are pushed back either way."""
        identity = torch.eye(self.dim, dtype=self._z.dtype, device=self._z.device)
        kept = len(range(*images.indices(self.batch)))
        rows = torch.empty(self.dim, kept, self.inputs, dtype=self._z.dtype, device=self._z.device)
        for i in range(0, self.dim, chunk):
            cotangents = identity[i : i + chunk].expand(self.batch, -1, -1)
            rows[i : i + chunk] = self.vjp(cotangents, chunk).transpose(0, 1)[:, images]
        return rows.transpose(0, 1)


def _pulled(output: Tensor, leaf: Tensor, cotangents: Tensor, chunk: int) -> Tensor:
    """Cotangents `(l, *output.shape)` pulled back to `(l, *leaf.shape)`; a single one needs no batching rules."""
    if cotangents.shape[0] == 1:
        return torch.autograd.grad(output, leaf, cotangents[0], retain_graph=True)[0].unsqueeze(0)
    parts = [
        torch.autograd.grad(output, leaf, cotangents[i : i + chunk], retain_graph=True, is_grads_batched=True)[0]
        for i in range(0, cotangents.shape[0], chunk)
    ]
    return torch.cat(parts)
