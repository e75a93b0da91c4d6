"""Errors of top-k scores and the bounds of Proposition 4.1: closed forms, then random cases."""

from __future__ import annotations

import math

import pytest
import torch

from minoritybench.errors import BadInputError
from minoritybench.rng import ImageStreams
from minoritybench.scoring.bounds import DenseJacobian, error_terms, halko_constant
from minoritybench.scoring.rsvd import range_basis, top_k
from minoritybench.scoring.spectrum import singular_values


def test_constant_is_the_papers() -> None:
    assert halko_constant(382, 9, 2) == pytest.approx(1 + (1 + 4 * math.sqrt(2 * 382 / 8)) ** 0.2)
    with pytest.raises(BadInputError, match="k >= 2"):
        halko_constant(10, 1, 0)


def test_terms_of_a_known_spectrum() -> None:
    sigma = torch.tensor([[8.0, 4.0, 2.0, 0.5]], dtype=torch.float64)
    found = torch.tensor([[8.0, 3.0]], dtype=torch.float64)
    terms = error_terms(sigma, found, q=1)
    assert float(terms.e_rsvd) == pytest.approx(math.log(4 / 3))
    assert float(terms.e_trunc) == pytest.approx(math.log(2 * 0.5), abs=1e-12)
    assert float(terms.error) == pytest.approx(math.log(8 * 4 * 2 * 0.5) - math.log(8 * 3))
    assert float(terms.bound_trunc) == pytest.approx(math.log((16 - 9 + 4 + 0.25) / 2))
    constant = halko_constant(4, 2, 1)
    assert float(terms.bound_rsvd) == pytest.approx(math.log1p(constant * 2 / 8) + math.log1p(constant * 2 / 3))
    assert float(terms.e_trunc_delta) == pytest.approx(float(terms.e_trunc))  # no position 13: no offset
    assert bool(terms.holds)


def test_offset_starts_at_position_thirteen() -> None:
    sigma = torch.linspace(3, 0.2, 20, dtype=torch.float64).unsqueeze(0)
    terms = error_terms(sigma, sigma[:, :4], q=2)
    assert float(terms.e_trunc_delta) == pytest.approx(float(sigma[0, 4:12].log().sum()))
    assert float(terms.offset_ratio) == pytest.approx(float(sigma[0, 12:].log().sum() / sigma[0, 4:].log().sum()))


def test_a_violation_is_seen() -> None:
    sigma = torch.tensor([[8.0, 4.0, 1e-3, 1e-3]], dtype=torch.float64)
    assert not bool(error_terms(sigma, torch.tensor([[8.0, 1e-3]], dtype=torch.float64), q=0).holds)


def test_a_flat_tail_meets_the_truncation_bound_with_equality() -> None:
    sigma = torch.tensor([[5.0, 4.0, 0.7, 0.7, 0.7]], dtype=torch.float64)
    terms = error_terms(sigma, sigma[:, :2], q=2)
    assert float(terms.bound_trunc) == pytest.approx(float(terms.e_trunc), abs=1e-9)
    assert bool(terms.holds)


@pytest.mark.parametrize("decay", [0.0, 0.2, 0.5])
@pytest.mark.parametrize(("k", "p", "q"), [(2, 0, 0), (3, 2, 2), (9, 2, 2), (9, 9, 1), (16, 2, 0)])
def test_bounds_hold_on_random_spectra(decay: float, k: int, p: int, q: int) -> None:
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(20, 24, 24, generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(20, 40, 24, generator=generator, dtype=torch.float64)).Q
    noise = torch.randn(20, 24, generator=generator, dtype=torch.float64)
    sigma = (0.3 * noise - decay * torch.arange(24)).exp()
    jacobian = left @ (sigma.unsqueeze(2) * right.transpose(1, 2))
    products = DenseJacobian(jacobian)
    probes = ImageStreams(0, range(20)).normal((k + p, 40), "score-probes").double()
    found = top_k(products, range_basis(products, probes, q), k).sigma
    values = singular_values(jacobian)
    assert torch.allclose(values, sigma.sort(descending=True).values, rtol=1e-6)
    assert bool(error_terms(values, found, q).holds.all())


def test_rank_that_leaves_no_tail_is_refused() -> None:
    sigma = torch.ones(1, 4, dtype=torch.float64)
    with pytest.raises(BadInputError, match="2 <= k < 4"):
        error_terms(sigma, sigma, q=2)
