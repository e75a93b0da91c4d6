"""Frechet distance against closed forms and scipy's matrix square root."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from minoritybench.errors import BadInputError
from minoritybench.metrics import frechet_bias_floor, frechet_distance
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


def random_side(rng: np.random.Generator, rows: int, width: int, rank: int) -> np.ndarray:
    """Correlated features of at most that rank, off centre."""
    spread = np.sqrt(1 / np.arange(1, rank + 1)) * np.exp(0.3 * rng.normal(size=rank))
    return (rng.normal(size=(rows, rank)) * spread) @ rng.normal(size=(rank, width)) / width**0.5 + rng.normal(
        size=width
    )


PAIRS = [  # rows of both sides, width, rank of both sides
    *[(64 * i + 100, 80 * i + 90, 64, 64, 64) for i in range(4)],
    *[(300, 200 + i, 64, 20 + i, 64) for i in range(3)],
    *[(40, 50, 64, 64, 64), (40, 400, 64, 64, 64), (60, 60, 128, 128, 128), (500, 600, 128, 128, 128)],
    *[(300, 310, 256, 256, 256), (600, 200, 256, 256, 100), (100, 90, 256, 256, 256), (700, 800, 256, 256, 256)],
    *[
        pytest.param(*case, marks=pytest.mark.slow)
        for case in ((1500, 1500, 1024, 1024, 1024), (300, 900, 1024, 1024, 800))
    ],
    *[
        pytest.param(*case, marks=pytest.mark.large)  # clean-fid takes minutes
        for case in ((3000, 2500, 2048, 2048, 2048), (500, 400, 2048, 2048, 2048))
    ],
    pytest.param(2500, 2500, 2048, 2048, 300, marks=pytest.mark.large),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("n", "m", "width", "rank_real", "rank_fake"), PAIRS)
def test_agrees_with_clean_fid(n: int, m: int, width: int, rank_real: int, rank_fake: int) -> None:
    """Whose matrix square root is scipy's; full rank and deficient covariances."""
    from cleanfid.fid import frechet_distance as clean_fid

    rng = np.random.default_rng(n + m)
    real, fake = random_side(rng, n, width, rank_real), random_side(rng, m, width, rank_fake)
    sides = [(side.mean(axis=0), np.cov(side, rowvar=False)) for side in (real, fake)]
    assert frechet_distance(real=real, fake=fake).value == pytest.approx(clean_fid(*sides[0], *sides[1]), rel=1e-6)


def test_bias_at_finite_n_is_the_known_one() -> None:
    """Equal standard normals, D=64, N=2000, M=1000: mean 1.656 over draws, and what the floor foretells."""
    rng = np.random.default_rng(0)
    draws = [
        frechet_distance(real=rng.normal(size=(2000, 64)), fake=rng.normal(size=(1000, 64))).value for _ in range(20)
    ]
    assert np.mean(draws) == pytest.approx(1.656, abs=0.05)
    assert frechet_bias_floor(np.eye(64), 2000, 1000) == pytest.approx(1.656, abs=0.05)
    assert frechet_bias_floor(np.ones(64), 2000, 1000) == pytest.approx((1 / 2000 + 1 / 1000) * (64 + 64 * 65 / 4))


def test_bias_floor_of_unequal_eigenvalues_down_to_four_rows_a_dimension() -> None:
    """D = 32, eigenvalues 1/i: within 4 % of the mean of 150 draws at the least sizes it is given for."""
    spectrum, n, m = 1 / np.arange(1.0, 33), 4 * 32, 12 * 32
    rng = np.random.default_rng(1)
    draws = [
        frechet_distance(
            real=rng.normal(size=(n, 32)) * spectrum**0.5, fake=rng.normal(size=(m, 32)) * spectrum**0.5
        ).value
        for _ in range(150)
    ]
    floor = frechet_bias_floor(np.diag(spectrum), n, m)
    assert floor == pytest.approx(np.mean(draws), rel=0.04)
    assert frechet_bias_floor(spectrum, n - 1, m) is None
    assert frechet_bias_floor(np.array([1.0, 0.0]), 100, 100) == pytest.approx(0.02 * 1.5)


def test_a_distance_far_below_zero_is_a_fault_and_is_not_clipped() -> None:
    """No covariances give one; a matrix that is none, with a negative eigenvalue, does."""
    with pytest.raises(AssertionError, match="Frechet distance"):
        gaussian_frechet(np.zeros(2), np.diag([1.0, -1.0]), np.zeros(2), np.diag([1.0, 0.0]))


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
