"""The guidance gradient against float64 central differences, an SVD gradient and closed forms."""

from __future__ import annotations

import torch
from torch import Tensor
from toy_encoders import LayerNormEncoder, PlainEncoder

from minoritybench.guidance import score_gradient
from minoritybench.guidance.gradient import dual_gradient
from minoritybench.scoring import Rsvd
from minoritybench.scoring.jacobian import JacobianGraph
from minoritybench.scoring.rsvd import range_basis, top_k


def projected_score(encoder: PlainEncoder, prepared: Tensor, basis: Tensor, k: int) -> Tensor:
    """sum_{i<=k} log sigma_i(Q^T J) with Q fixed, by SVD."""
    rows = JacobianGraph(encoder, prepared).vjp(basis.transpose(1, 2))
    return torch.linalg.svdvals(rows)[:, :k].log().sum(dim=1)


def central_differences(encoder: PlainEncoder, prepared: Tensor, basis: Tensor, k: int, step: float = 1e-5) -> Tensor:
    gradient = torch.zeros_like(prepared)
    for position in range(prepared[0].numel()):
        shift = torch.zeros_like(prepared).flatten(1)
        shift[:, position] = step
        shift = shift.view_as(prepared)
        rise = projected_score(encoder, prepared + shift, basis, k) - projected_score(
            encoder, prepared - shift, basis, k
        )
        gradient.flatten(1)[:, position] = rise / (2 * step)
    return gradient


def test_gradient_equals_central_differences_on_a_layer_norm_encoder() -> None:
    encoder = LayerNormEncoder(27, 12)
    prepared = torch.rand(2, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    graph = JacobianGraph(encoder, prepared)
    basis = range_basis(graph, torch.randn(2, 5, 27, dtype=torch.float64), q=2)
    gradient = dual_gradient(encoder, prepared, top_k(graph, basis, 3))
    expected = central_differences(encoder, prepared, basis, 3)
    assert (gradient - expected).norm() / expected.norm() < 1e-5


def test_gradient_equals_the_papers_svd_gradient_at_the_same_projection() -> None:
    encoder = LayerNormEncoder(27, 12)
    prepared = torch.rand(1, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    graph = JacobianGraph(encoder, prepared)
    basis = range_basis(graph, torch.randn(1, 5, 27, dtype=torch.float64), q=1)
    ours = dual_gradient(encoder, prepared, top_k(graph, basis, 3))

    x = prepared.clone().requires_grad_(True)
    z = encoder(x)
    rows = [torch.autograd.grad((z * basis[:, :, i]).sum(), x, create_graph=True)[0].flatten() for i in range(5)]
    torch.linalg.svdvals(torch.stack(rows))[:3].log().sum().backward()
    assert x.grad is not None
    assert (ours - x.grad).norm() / x.grad.norm() < 1e-10


def test_quadratic_encoder_has_the_closed_form() -> None:
    """f_j(u) = u_j^2 / 2 has J = diag(u): the score's slope is 1/u_j on the k largest entries, 0 elsewhere."""
    encoder = PlainEncoder(lambda x: x.flatten(1) ** 2 / 2)
    u = torch.tensor([3.0, 2.0, 1.0, 0.5, 0.25, 0.1], dtype=torch.float64).view(1, 3, 2, 1)
    probes = torch.randn(1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    result = score_gradient(encoder, u, Rsvd(k=3, p=3, q=2), probes)
    expected = torch.tensor([1 / 3, 1 / 2, 1.0, 0, 0, 0], dtype=torch.float64)
    assert torch.allclose(result.gradient.flatten(), expected, atol=1e-10)
    assert torch.allclose(result.score, torch.tensor([6.0], dtype=torch.float64).log())


def test_linear_encoder_has_no_gradient_and_no_nan() -> None:
    matrix = torch.randn(6, 12, dtype=torch.float64)
    result = score_gradient(
        PlainEncoder(lambda x: x.flatten(1) @ matrix.T),
        torch.rand(2, 3, 2, 2, dtype=torch.float64),
        Rsvd(),
        torch.randn(2, 5, 12, dtype=torch.float64),
    )
    assert torch.equal(result.gradient, torch.zeros(2, 3, 2, 2, dtype=torch.float64))


def test_a_small_step_down_the_gradient_lowers_the_score() -> None:
    encoder = LayerNormEncoder(27, 12)
    prepared = torch.rand(4, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    probes = torch.randn(4, 12, 27, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    here = score_gradient(encoder, prepared, Rsvd(3, 9, 3), probes)
    for sign in (-1, 1):
        there = score_gradient(encoder, prepared + sign * 1e-3 * here.gradient, Rsvd(3, 9, 3), probes)
        assert ((there.score - here.score) * sign > 0).all()


def test_vanished_singular_values_give_no_nan() -> None:
    """Two outputs are constant: their right vectors are undefined and must not poison the others."""
    encoder = PlainEncoder(
        lambda x: torch.cat([x.flatten(1)[:, :4] ** 2 / 2, torch.ones(len(x), 2).double() + 0 * x.flatten(1)[:, :2]], 1)
    )
    u = torch.tensor([3.0, 2.0, 1.0, 0.5, 0.25, 0.1], dtype=torch.float64).view(1, 3, 2, 1)
    probes = torch.randn(1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradient = score_gradient(encoder, u, Rsvd(k=6, p=0, q=2), probes).gradient.flatten()
    expected = torch.tensor([1 / 3, 1 / 2, 1.0, 2.0, 0, 0], dtype=torch.float64)
    assert torch.allclose(gradient, expected, atol=1e-8)
