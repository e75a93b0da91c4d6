"""Products with the Jacobian, by copies, by hand and by differences, against its rows in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toy_encoders import LayerNormEncoder

import minoritybench
from minoritybench.errors import BadInputError
from minoritybench.guidance.gradient import difference_gradient, dual_gradient, score_gradient
from minoritybench.guidance.products import CopiedGraph, FiniteDifferences, LinearisedProducts
from minoritybench.guidance.subspace import RangeFinder
from minoritybench.scoring import Rsvd
from minoritybench.scoring.jacobian import JacobianGraph


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("name", "size"), [("digits-ijepa", 8), ("dinov2-vits14", 42), ("dinov2-vits14-reg", 42), ("dinov2-vitg14", 42)]
)
def test_linearised_and_copied_products_are_those_of_the_jacobian(name: str, size: int) -> None:
    random: Any = {} if size == 8 else {"weights": "random", "input_size": size}
    encoder = minoritybench.load_encoder(name, dtype="float64", **random)
    prepared = encoder.prepare(draws(2, 3, size, size).sigmoid())
    rows = JacobianGraph(encoder, prepared).rows()
    w, v = draws(2, 3, encoder.dim, seed=1), draws(2, 3, rows.shape[2], seed=2)
    for products in (CopiedGraph(encoder, prepared, 4), LinearisedProducts(encoder.linearised(), prepared)):
        assert torch.allclose(products.vjp(w), w @ rows, atol=1e-12 * float(rows.norm()))
        assert torch.allclose(products.jvp(v), v @ rows.transpose(1, 2), atol=1e-12 * float(rows.norm()))
        assert torch.allclose(products.z, encoder(prepared), atol=1e-10)


@pytest.mark.parametrize("name", ["digits-jepa", "digits-vicreg"])
def test_hand_written_derivatives_of_the_mlps_are_those_of_autograd(name: str) -> None:
    encoder = minoritybench.load_encoder(name, dtype="float64")
    prepared = encoder.prepare(draws(3, 3, 8, 8).sigmoid())
    graph, known = JacobianGraph(encoder, prepared), encoder.derivatives(prepared)
    w, v = draws(3, 4, encoder.dim, seed=1), draws(3, 4, 64, seed=2)
    assert torch.allclose(known.z, graph.z, atol=1e-14)
    assert torch.allclose(known.vjp(w), graph.vjp(w), atol=1e-12)
    assert torch.allclose(known.jvp(v), graph.jvp(v), atol=1e-12)
    top = RangeFinder(Rsvd(3, 2, 2)).find(encoder, prepared, v[:, :1].expand(-1, 5, -1) + draws(3, 5, 64)).first(3)
    by_hand = known.gradient(top.left / top.sigma.unsqueeze(-1), top.right)
    assert torch.allclose(by_hand, dual_gradient(encoder, prepared, top), atol=1e-11)


def test_derivatives_of_another_network_are_refused() -> None:
    class Doubled(type(minoritybench.load_encoder("digits-jepa"))):  # type: ignore[misc]
        def __call__(self, prepared: torch.Tensor) -> torch.Tensor:
            return 2 * super().__call__(prepared)

    encoder = Doubled("digits-jepa")
    prepared = encoder.prepare(torch.rand(2, 3, 8, 8))
    with pytest.raises(BadInputError, match="derivatives"):
        score_gradient(encoder, prepared, Rsvd(), torch.randn(2, 5, 64))


def test_finite_differences_approximate_the_exact_products() -> None:
    encoder = LayerNormEncoder(27, 12)
    prepared = draws(2, 3, 3, 3)
    products, exact = FiniteDifferences(encoder, prepared, 4, 1e-4), JacobianGraph(encoder, prepared)
    v, w = draws(2, 4, 27, seed=1), draws(2, 4, 12, seed=2)
    error = (products.jvp(v) - exact.jvp(v)).norm() / exact.jvp(v).norm()
    assert 1e-7 < error < 1e-3  # one-sided: of the order of the step, never exact
    assert torch.allclose(products.vjp(w), exact.vjp(w), atol=1e-12)


def test_central_differences_give_the_dual_gradient() -> None:
    encoder = LayerNormEncoder(27, 12)
    prepared = draws(2, 3, 3, 3)
    top = RangeFinder(Rsvd(3, 2, 2)).find(encoder, prepared, draws(2, 5, 27, seed=1)).first(3)
    dual = dual_gradient(encoder, prepared, top)
    assert (difference_gradient(encoder, prepared, top) - dual).norm() < 1e-3 * dual.norm()


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("kind", ["rsvd", "lanczos"])
def test_an_image_does_not_feel_its_neighbours_on_two_threads(kind: Any) -> None:
    """An encoder without a pinned thread count: the same micro-batch size, another neighbour."""
    encoder = minoritybench.load_encoder("dinov2-vits14", weights="random", input_size=42)
    prepared = encoder.prepare(draws(3, 3, 42, 42).sigmoid().float())
    start = draws(3, 5, prepared[0].numel(), seed=1).float()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = [
            score_gradient(encoder, prepared[pair], RangeFinder(Rsvd(3, 2, 1), kind), start[pair])
            for pair in ([0, 1], [0, 2], [2, 0])
        ]
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0].gradient[0], found[1].gradient[0])
    assert torch.equal(found[0].found.right[0], found[1].found.right[0])
    assert torch.equal(found[1].gradient[0], found[2].gradient[1])
