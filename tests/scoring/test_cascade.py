"""The cascade's cheap features and its statistics, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from toy_encoders import PlainEncoder

from minoritybench.scoring.cascade import (
    LEAST_MARGIN,
    calibration_size,
    margin_of,
    pooled,
    recall_interval,
    sketch_features,
    sketch_rows,
    threshold_so_far,
    whitened_probes,
)
from minoritybench.scoring.gaussian_process import fit_gaussian_process
from minoritybench.scoring.jacobian import JacobianGraph


def test_probes_are_white_in_the_metric_of_the_gram_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(6, 30, generator=generator, dtype=torch.float64)
    rows *= torch.logspace(-2, 2, 6, dtype=torch.float64).unsqueeze(1)
    gram = rows @ rows.T
    white = whitened_probes(gram, 4000, seed=0) @ torch.linalg.cholesky(gram)
    assert torch.allclose(white.T @ white / 4000, torch.eye(6, dtype=torch.float64), atol=0.1)


def test_probes_avoid_directions_in_which_nothing_moves() -> None:
    gram = torch.diag(torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64))
    assert whitened_probes(gram, 5, seed=0)[:, 2].abs().max() == 0


def test_sketch_of_a_linear_encoder_is_the_closed_form() -> None:
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    encoder = PlainEncoder(lambda x: x.flatten(1) @ matrix.T)
    graph = JacobianGraph(encoder, torch.rand(2, 1, 2, 2, generator=generator, dtype=torch.float64))
    probes = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    features = sketch_features(graph, probes)
    sketch = probes @ matrix
    expected = torch.cat([torch.linalg.svdvals(sketch).square().log().flip(0), sketch.square().mean(0).log()])
    assert torch.allclose(features, expected.expand(2, -1), atol=1e-10)


def test_pooled_grids() -> None:
    image = torch.arange(2 * 3 * 16 * 16, dtype=torch.float64).reshape(2, 3, 16, 16)
    grid = pooled(image)
    assert grid.shape == (2, 64)
    assert float(grid[1, 0]) == float(image[1, :, :2, :2].mean())
    assert pooled(torch.ones(2, 5)).shape == (2, 5)
    assert pooled(torch.ones(2, 640)).shape == (2, 64)


def test_sizes() -> None:
    assert [calibration_size(n) for n in (50, 900, 10_000, 1_000_000)] == [50, 120, 400, 4000]
    assert [sketch_rows(d) for d in (8, 16, 96, 384, 1536)] == [0, 1, 6, 16, 16]


@pytest.mark.parametrize(("found", "of"), [(5, 5), (3, 5), (0, 4), (12, 15)])
def test_recall_interval_is_clopper_pearson(found: int, of: int) -> None:
    exact = binomtest(found, of).proportion_ci(0.95, method="exact")
    assert recall_interval(found, of) == pytest.approx((exact.low, exact.high))


def test_nothing_observed_says_nothing() -> None:
    assert recall_interval(0, 0) == (0.0, 1.0)


def test_threshold_is_open_until_enough_are_scored() -> None:
    assert threshold_so_far([3.0, 1.0, 2.0], 2) == 2.0
    assert threshold_so_far([3.0], 2) == math.inf


def test_margin_covers_the_worst_random_image_and_ignores_chosen_ones() -> None:
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(80, 2)))
    targets = features[:, 0] + 0.1 * torch.from_numpy(rng.normal(size=80))
    targets[3] -= 2.0
    proxy = fit_gaussian_process([features], targets)
    means, deviations = proxy.leave_one_out(targets)
    sample = torch.ones(80, dtype=torch.bool)
    margin = margin_of(proxy, targets, sample)
    assert bool((means - margin * deviations <= targets + 1e-9).all())
    assert margin > LEAST_MARGIN
    sample[3] = False
    assert margin_of(proxy, targets, sample) < margin


def test_margin_without_a_random_sample_bounds_nothing() -> None:
    features = torch.linspace(0, 1, 20, dtype=torch.float64).unsqueeze(1)
    proxy = fit_gaussian_process([features], features[:, 0])
    assert margin_of(proxy, features[:, 0], torch.zeros(20, dtype=torch.bool)) == math.inf
