"""Frechet distance against closed forms and scipy's matrix square root."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from minoritybench.errors import BadInputError
from minoritybench.metrics import frechet_distance
from minoritybench.metrics.frechet import gaussian_frechet

I6 = np.eye(6)


@pytest.mark.parametrize(
    ("mean1", "cov1", "mean2", "cov2", "expected"),
    [
        (np.ones(6), 2 * I6, np.ones(6), 2 * I6, 0.0),
        (np.zeros(6), I6, np.arange(6) / 3, 4 * I6, 55 / 9 + 6),
        (np.zeros(2), np.array([[2.0, 1], [1, 2]]), np.zeros(2), np.diag([1.0, 4]), 9 - 2 * (10 + 2 * 12**0.5) ** 0.5),
        (np.zeros(2), np.diag([1.0, 0]), np.zeros(2), np.diag([0.0, 1]), 2.0),
        (np.zeros(3), np.zeros((3, 3)), np.ones(3), np.zeros((3, 3)), 3.0),
    ],
)
def test_closed_forms(
    mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray, expected: float
) -> None:
    assert gaussian_frechet(mean1, cov1, mean2, cov2) == pytest.approx(expected, abs=1e-12)
    assert gaussian_frechet(mean2, cov2, mean1, cov1) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n", "m", "width"), [(200, 150, 8), (90, 400, 64), (40, 50, 64)])
def test_agrees_with_scipy_sqrtm_and_is_rotation_invariant(n: int, m: int, width: int) -> None:
    rng = np.random.default_rng(n)
    real = rng.normal(size=(n, width)) @ rng.normal(size=(width, width))
    fake = rng.normal(size=(m, width)) * 2 + 1
    cov1, cov2 = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    root = scipy.linalg.sqrtm(cov1 @ cov2).real
    expected = np.sum((real.mean(0) - fake.mean(0)) ** 2) + np.trace(cov1 + cov2 - 2 * root)
    found = frechet_distance(real=real, fake=fake)
    assert found.value == pytest.approx(expected, rel=1e-6)
    assert found.params == {"n_real": n, "n_fake": m}
    turn = np.linalg.qr(rng.normal(size=(width, width)))[0]
    assert frechet_distance(real=real @ turn + 3, fake=fake @ turn + 3).value == pytest.approx(found.value, rel=1e-9)


def test_bias_at_finite_n_is_the_known_one() -> None:
    """Equal standard normals, D=64, N=2000, M=1000: mean 1.656 over draws."""
    rng = np.random.default_rng(0)
    draws = [
        frechet_distance(real=rng.normal(size=(2000, 64)), fake=rng.normal(size=(1000, 64))).value for _ in range(20)
    ]
    assert np.mean(draws) == pytest.approx(1.656, abs=0.05)


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (np.ones((5, 2)), np.ones((5, 3)), "2 columns"),
        (np.ones((1, 2)), np.ones((5, 2)), "at least 2"),
        (np.full((5, 2), np.nan), np.ones((5, 2)), "NaN"),
        (np.ones(5), np.ones((5, 2)), r"\(N, D\)"),
    ],
)
def test_unfit_features_are_refused(real: np.ndarray, fake: np.ndarray, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        frechet_distance(real=real, fake=fake)
