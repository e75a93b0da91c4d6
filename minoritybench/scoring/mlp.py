"""A GELU multilayer perceptron, optionally normalised to unit length, differentiated by hand.

For networks this small automatic differentiation costs more in bookkeeping than in arithmetic. Everything is exact: the
products with the Jacobian, and the gradient of `sum_i <w_i, J(u) v_i>`, in which only the activations and the
normalisation have a second derivative.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minoritybench.scoring.vit.forward import activate


@dataclass(frozen=True)
class LinearisedMlp:
    """`weights` and `biases` of linear layers with GELU between them; `unit`: the output is divided by its length."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    unit: bool

    @classmethod
    def of(cls, layers: nn.Sequential, unit: bool) -> LinearisedMlp:
        """From alternating `nn.Linear` and `nn.GELU` modules."""
        linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
        return cls(tuple(x.weight.detach() for x in linears), tuple(x.bias.detach() for x in linears), unit)

    def at(self, prepared: Tensor) -> MlpProducts:
        """The derivatives at prepared inputs `(B, ...)`."""
        return MlpProducts(self, prepared)


class MlpProducts:
    """Products with the Jacobians `(B, d, n)` at given inputs; an instance of `rsvd.JacobianProducts`."""

    @torch.no_grad()
    def __init__(self, mlp: LinearisedMlp, prepared: Tensor) -> None:
        self._mlp, self._shape = mlp, prepared.shape
        self._inputs: list[Tensor] = []  # of every activation
        self._slopes: list[Tensor] = []
        hidden = prepared.flatten(1)
        self.inputs = hidden.shape[1]
        for weight, bias in zip(mlp.weights[:-1], mlp.biases[:-1], strict=True):
            inputs = torch.addmm(bias, hidden, weight.T)
            hidden, slopes = activate(inputs, "gelu")
            self._inputs.append(inputs)
            self._slopes.append(slopes.unsqueeze(1))
        output = torch.addmm(mlp.biases[-1], hidden, mlp.weights[-1].T)
        self._length = output.norm(dim=1).clamp_min(1e-12).view(-1, 1, 1)  # as functional.normalize
        self.z = output / self._length[:, 0] if mlp.unit else output
        self.dim = output.shape[1]

    @torch.no_grad()
    def vjp(self, vectors: Tensor) -> Tensor:
        """`J^T w` for `(B, l, d)` cotangents: `(B, l, n)`."""
        rows = self._through_length(vectors)
        for weight, slopes in zip(self._mlp.weights[:0:-1], reversed(self._slopes), strict=True):
            rows = _times(rows, weight) * slopes
        return _times(rows, self._mlp.weights[0])

    @torch.no_grad()
    def jvp(self, vectors: Tensor) -> Tensor:
        """`J v` for `(B, l, n)` tangents: `(B, l, d)`."""
        rows = vectors
        for weight, slopes in zip(self._mlp.weights[:-1], self._slopes, strict=True):
            rows = _times(rows, weight.T) * slopes
        return self._through_length(_times(rows, self._mlp.weights[-1].T))

    @torch.no_grad()
    def gradient(self, left: Tensor, right: Tensor) -> Tensor:
        """`grad_u sum_i <w_i, J(u) v_i>` in the shape of the inputs, for `w` `(B, k, d)` and `v` `(B, k, n)`."""
        weights = self._mlp.weights
        tangents = []  # of every activation's input
        rows = right
        for weight, slopes in zip(weights[:-1], self._slopes, strict=True):
            tangents.append(_times(rows, weight.T))
            rows = tangents[-1] * slopes
        bent = self._length_bend(left, _times(rows, weights[-1].T))
        rows = self._through_length(left)
        for number in range(len(weights) - 2, -1, -1):
            inputs, slopes = self._inputs[number], self._slopes[number]
            rows = _times(rows, weights[number + 1])
            density = torch.exp(-0.5 * inputs.square()) * ((2.0 - inputs.square()) / math.sqrt(2.0 * math.pi))
            bent = (bent @ weights[number + 1]) * slopes[:, 0] + density * (rows * tangents[number]).sum(dim=1)
            rows = rows * slopes
        return (bent @ weights[0]).view(self._shape)

    def _through_length(self, vectors: Tensor) -> Tensor:
        """`(I - z z^T) / |y|` applied to `(B, l, d)`, where the output is normalised."""
        if not self._mlp.unit:
            return vectors
        z = self.z.unsqueeze(1)
        return (vectors - (vectors * z).sum(dim=2, keepdim=True) * z) / self._length

    def _length_bend(self, left: Tensor, tangents: Tensor) -> Tensor:
        """`grad_y sum_i <w_i, (I - z z^T) t_i> / |y|` `(B, d)` for tangents `t` of the output before its length."""
        if not self._mlp.unit:
            return torch.zeros_like(self.z)
        z = self.z.unsqueeze(1)
        along_w, along_t = (left * z).sum(dim=2, keepdim=True), (tangents * z).sum(dim=2, keepdim=True)
        both = (left * tangents).sum(dim=2, keepdim=True)
        bend = (3 * along_w * along_t - both) * z - along_t * left - along_w * tangents
        return (bend / self._length.square()).sum(dim=1)


def _times(rows: Tensor, matrix: Tensor) -> Tensor:
    """`(B, l, m)` rows times a matrix `(m, p)`, as one product."""
    return (rows.reshape(-1, rows.shape[2]) @ matrix).view(*rows.shape[:2], -1)
