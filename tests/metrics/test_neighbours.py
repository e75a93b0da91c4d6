"""AvgkNN and LOF against closed forms and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

from minoritybench.errors import BadInputError
from minoritybench.metrics import pairwise
from minoritybench.metrics.neighbours import avgknn, local_outlier_factor, lof, mean_neighbour_distance, nearest

LINE = np.arange(100.0)[:, None]


def test_closed_form_on_a_line() -> None:
    given = mean_neighbour_distance(np.array([[10.0], [10.5], [200.0]]), 5, reference=LINE)
    assert given == pytest.approx([1.2, 1.3, 103.0])
    assert mean_neighbour_distance(LINE, 5)[50] == pytest.approx(1.8)


def test_lof_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(300, 16)), 3 * rng.normal(size=(40, 16))])
    reference = LocalOutlierFactor(n_neighbors=20).fit(points)
    found = local_outlier_factor(points, 20)
    assert found == pytest.approx(-reference.negative_outlier_factor_, rel=1e-9)
    assert found[:300].mean() == pytest.approx(1.07, abs=0.06)
    assert found[300:].mean() > 1.8


def test_lof_of_strangers_is_scikit_learns_novelty_detection() -> None:
    rng = np.random.default_rng(3)
    real, usual, wide = rng.normal(size=(400, 16)), rng.normal(size=(200, 16)), 3 * rng.normal(size=(200, 16))
    reference = LocalOutlierFactor(n_neighbors=20, novelty=True).fit(real)
    for fake in (usual, wide):
        assert local_outlier_factor(fake, 20, reference=real) == pytest.approx(-reference.score_samples(fake), rel=1e-9)
    assert lof(real=real, fake=usual).value == pytest.approx(1.07, abs=0.03)
    assert lof(real=real, fake=wide).value == pytest.approx(2.7, abs=0.2)


def test_avgknn_metric_is_the_mean_over_fake_points() -> None:
    found = avgknn(real=LINE, fake=np.array([[10.0], [10.5], [200.0]]))
    assert found.value == pytest.approx((1.2 + 1.3 + 103) / 3)
    assert found.params == {"k": 5, "n_real": 100, "n_fake": 3}
    with pytest.raises(TypeError):
        avgknn(LINE, LINE)  # type: ignore[misc]


def test_neighbours_are_scikit_learns_and_exclude_only_the_point_itself() -> None:
    points = np.random.default_rng(1).normal(size=(50, 7))
    points[7] = points[3]
    distances, indices = nearest(points, 4)
    wanted, _ = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(points).kneighbors(points)
    assert distances == pytest.approx(wanted[:, 1:], abs=1e-7)
    assert distances[3, 0] == 0.0
    assert indices[3, 0] == 7
    assert np.isfinite(local_outlier_factor(np.zeros((30, 2)))).all()


def test_block_size_enters_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(2).normal(size=(300, 5)).astype(np.float32)
    whole = mean_neighbour_distance(points), local_outlier_factor(points)
    monkeypatch.setattr(pairwise, "ROWS", 7)
    assert (mean_neighbour_distance(points) == whole[0]).all()
    assert (local_outlier_factor(points) == whole[1]).all()


@pytest.mark.parametrize(("rows", "k"), [(5, 5), (3, 0)])
def test_too_few_points_are_refused(rows: int, k: int) -> None:
    with pytest.raises(BadInputError, match="nearest neighbours need more than"):
        mean_neighbour_distance(np.random.default_rng(0).normal(size=(rows, 2)), k)
