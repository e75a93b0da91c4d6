"""Precision, recall, density, coverage: identities, an own brute-force count, and known expectations."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from coarse_products import choose_products

from minoritybench import metrics
from minoritybench.errors import BadInputError
from minoritybench.metrics import manifold, pairwise
from minoritybench.metrics.manifold import coverage_ceiling, rarity_scores


def brute_force(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    def radii(points: np.ndarray) -> np.ndarray:
        distances = np.linalg.norm(points[:, None] - points[None], axis=2)
        return np.sort(distances, axis=1)[:, k]

    between = np.linalg.norm(real[:, None] - fake[None], axis=2)
    inside_real = between < radii(real)[:, None]
    inside_fake = between < radii(fake)[None, :]
    return {
        "precision": inside_real.any(axis=0).mean(),
        "recall": inside_fake.any(axis=1).mean(),
        "density": inside_real.sum(axis=0).mean() / k,
        "coverage": inside_real.any(axis=1).mean(),
    }


@pytest.mark.parametrize(("n", "m", "k"), [(40, 70, 5), (70, 40, 3), (30, 30, 1)])
def test_agrees_with_a_brute_force_count(n: int, m: int, k: int) -> None:
    rng = np.random.default_rng(n)
    real, fake = rng.normal(size=(n, 6)), rng.normal(size=(m, 6)) * 1.3 + 0.3
    expected = brute_force(real, fake, k)
    for name, value in expected.items():
        assert getattr(metrics, name)(real=real, fake=fake, k=k).value == pytest.approx(value, abs=1e-12)


def test_copies_score_one_and_strangers_zero() -> None:
    real = np.random.default_rng(0).normal(size=(60, 4))
    for shift, expected in ((0.0, 1.0), (1000.0, 0.0)):
        values = metrics.manifold_metrics(real=real, fake=real + shift)
        assert {value.value for value in values.values()} == {expected}


def test_swapping_sides_swaps_precision_and_recall() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(50, 5)), rng.normal(size=(80, 5)) * 1.5
    assert metrics.precision(real=a, fake=b).value == metrics.recall(real=b, fake=a).value
    assert metrics.precision(real=a, fake=b).value != metrics.recall(real=a, fake=b).value
    with pytest.raises(TypeError):
        metrics.precision(a, b)  # type: ignore[misc]


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(2)
    metrics.density(real=rng.normal(size=(20, 3)), fake=rng.normal(size=(20, 3)))
    assert capsys.readouterr().out == ""


def test_too_few_points_are_refused() -> None:
    with pytest.raises(BadInputError, match="at least 7"):
        metrics.coverage(real=np.ones((5, 2)), fake=np.ones((9, 2)))


def test_t_interval_of_three_seeds() -> None:
    mean, low, high = metrics.t_interval([1.0, 2.0, 3.0])
    half = 4.302652729911275 / 3**0.5  # t quantile of 0.975 at 2 degrees of freedom
    assert (mean, low, high) == pytest.approx((2.0, 2.0 - half, 2.0 + half))
    assert metrics.t_interval([5.0]) == (5.0, None, None)


def test_score_metrics() -> None:
    assert metrics.mean_jepa_score([-1.0, -3.0]).value == -2.0
    share = metrics.minority_share([-1.0, -3.0, -2.0, 0.0], threshold=-2.0)
    assert share.value == 0.5
    assert share.params == {"threshold": -2.0, "n_fake": 4}


def prdc_values(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    from prdc import compute_prdc

    with contextlib.redirect_stdout(io.StringIO()):
        values: dict[str, float] = compute_prdc(real_features=real, fake_features=fake, nearest_k=k)
    return values


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("seed", range(50))
def test_equals_prdc_on_float32_without_ties(seed: int, coarse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    choose_products(monkeypatch, coarse)
    rng = np.random.default_rng(seed)
    n, m, width, k = (int(rng.integers(*bounds)) for bounds in ((20, 200), (20, 200), (1, 70), (1, 8)))
    real = (rng.normal(size=(n, width)) + rng.normal()).astype(np.float32)
    fake = (rng.normal(size=(m, width)) * 1.2 + real.mean()).astype(np.float32)
    values = metrics.manifold_metrics(real=real, fake=fake, k=k)
    assert {name: value.value for name, value in values.items()} == prdc_values(real, fake, k)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_equals_prdc_on_planted_ties_and_duplicates_and_warns(
    seed: int, coarse: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole numbers: both sides compute every distance exactly, and nearly all of them are tied."""
    choose_products(monkeypatch, coarse)
    rng = np.random.default_rng(seed)
    real = rng.integers(0, 3, size=(120, 4)).astype(np.float64)
    fake = rng.integers(0, 4, size=(90, 4)).astype(np.float64)
    real[:4] = real[0]
    values = metrics.manifold_metrics(real=real, fake=fake, k=3)
    for name, expected in prdc_values(real, fake, 3).items():
        assert values[name].value == pytest.approx(expected, abs=1e-15)
    assert "real points have 3 duplicates or more" in caplog.text


@pytest.mark.parametrize("block", [(7, 13), (64, 32), (4096, 2048)])
def test_blocks_and_open_pairs_do_not_matter(block: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    real, fake = rng.normal(size=(230, 20)), rng.normal(size=(310, 20)) * 1.2 + 0.2
    expected = brute_force(real, fake, 5)
    monkeypatch.setattr(pairwise, "ROWS", block[0])
    monkeypatch.setattr(pairwise, "COLUMNS", block[1])
    for coarse in (False, True):
        for most in (0, 1 << 20):
            choose_products(monkeypatch, coarse)
            monkeypatch.setattr(manifold, "_OPEN", most)
            values = metrics.manifold_metrics(real=real, fake=fake)
            assert {name: value.value for name, value in values.items()} == pytest.approx(expected, abs=1e-12)


def test_duplicated_references_warn_and_score_nothing(caplog: pytest.LogCaptureFixture) -> None:
    points = np.repeat(np.random.default_rng(0).normal(size=(40, 6)), 7, axis=0)
    values = metrics.manifold_metrics(real=points, fake=points)
    assert max(value.value for value in values.values()) < 0.05
    assert "280 of 280 real points" in caplog.text


def test_expectations_of_equal_distributions() -> None:
    rng = np.random.default_rng(0)
    values = metrics.manifold_metrics(real=rng.normal(size=(2000, 64)), fake=rng.normal(size=(2000, 64)))
    assert values["coverage"].value == pytest.approx(0.969, abs=0.015)
    assert values["density"].value == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    ("n", "m", "expected"), [(1000, 3000, 0.9990), (3000, 1000, 0.763), (10000, 30000, 0.9990), (10000, 5000, 0.8684)]
)
def test_coverage_ceiling(n: int, m: int, expected: float) -> None:
    assert coverage_ceiling(n, m) == pytest.approx(expected, abs=5e-4)


def test_rarity_of_a_grid() -> None:
    """k = 3 on whole numbers 0..99: balls of radius 2, wider at the ends; membership is strict."""
    real = np.arange(100.0)[:, None]
    fake = np.array([50, 50.4, 0, -2.5, -3, 500, 51, 52])[:, None]
    found = rarity_scores(real=real, fake=fake, k=3)
    assert found[:4].tolist() == [2, 2, 2, 3]
    assert np.isnan(found[4:6]).all()
    assert found[6:].tolist() == [2, 2]


def test_mean_rarity_leaves_out_what_lies_in_no_ball(caplog: pytest.LogCaptureFixture) -> None:
    real = np.arange(100.0)[:, None]
    fake = np.array([50, 50.4, 0, -2.5, -3, 500])[:, None]
    found = metrics.rarity_score(real=real, fake=fake)
    assert found.value == (2 + 2 + 2 + 3) / 4
    assert found.details == {"valid_share": pytest.approx(4 / 6)}
    assert metrics.rarity_valid_share(real=real, fake=fake).value == pytest.approx(4 / 6)
    assert metrics.rarity_valid_share(real=real, fake=fake).value == metrics.precision(real=real, fake=fake, k=3).value
    assert not caplog.text
    assert np.isnan(metrics.rarity_score(real=real, fake=fake[4:]).value)
    assert "undefined" in caplog.text
