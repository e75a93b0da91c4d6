"""The regression behind the cascade's proxy, against scikit-learn and against refits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from minoritybench.scoring.gaussian_process import fit_gaussian_process


def sample(count: int, seed: int = 0) -> tuple[list[torch.Tensor], torch.Tensor]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 3))
    targets = np.sin(features[:, 0]) + 0.5 * features[:, 1] + 0.05 * rng.normal(size=count)
    return [torch.from_numpy(features)], torch.from_numpy(targets)


def test_prediction_is_that_of_an_independent_implementation() -> None:
    blocks, targets = sample(60)
    ours = fit_gaussian_process(blocks, targets)
    standard = ((blocks[0] - blocks[0].mean(0)) / blocks[0].std(0, correction=0)).numpy() / 3**0.5
    scale = float(targets.std(correction=0))
    observed = ((targets - targets.mean()) / scale).numpy()
    kernel = ConstantKernel(1.0, "fixed") * RBF(ours.lengths[0], "fixed")
    theirs = GaussianProcessRegressor(kernel, alpha=ours.noise, optimizer=None).fit(standard, observed)
    new = torch.from_numpy(np.random.default_rng(1).normal(size=(20, 3)))
    at = ((new - blocks[0].mean(0)) / blocks[0].std(0, correction=0)).numpy() / 3**0.5
    expected, deviation = theirs.predict(at, return_std=True)
    means, deviations = ours.predict([new])
    assert means.numpy() == pytest.approx(expected * scale + float(targets.mean()), abs=1e-9)
    amplitude = observed @ theirs.alpha_.ravel() / len(observed)
    assert deviations.numpy() == pytest.approx(scale * np.sqrt(amplitude * (deviation**2 + ours.noise)), abs=1e-9)


def test_grid_finds_the_noise_level() -> None:
    blocks, targets = sample(200)
    fitted = fit_gaussian_process(blocks, targets)
    kernel = ConstantKernel(1.0) * RBF(1.0) + WhiteKernel(0.01)
    observed = ((targets - targets.mean()) / targets.std(correction=0)).numpy()
    free = GaussianProcessRegressor(kernel, random_state=0).fit(blocks[0].numpy() / 3**0.5, observed)
    means, _ = fitted.predict(blocks)
    assert float((means - targets).std()) < 0.1
    assert fitted.noise <= 0.1
    assert np.exp(free.kernel_.theta[-1]) < 0.1  # the continuous optimum agrees that there is little noise


def test_leave_one_out_equals_a_refit_without_the_point() -> None:
    blocks, targets = sample(40)
    fitted = fit_gaussian_process(blocks, targets)
    means, deviations = fitted.leave_one_out(targets)
    inputs, centre = fitted._inputs[0], float(targets.mean())
    scale = float(targets.std(correction=0))
    squares = torch.cdist(inputs, inputs).square()
    gram = torch.exp(-0.5 * squares / fitted.lengths[0] ** 2) + fitted.noise * torch.eye(40, dtype=torch.float64)
    for out in (0, 17):
        keep = [i for i in range(40) if i != out]
        weights = torch.linalg.solve(gram[keep][:, keep], gram[keep, out])
        mean = centre + scale * float(weights @ ((targets[keep] - centre) / scale))
        variance = fitted._amplitude * float(gram[out, out] - weights @ gram[keep, out])
        assert float(means[out]) == pytest.approx(mean, abs=1e-9)
        assert float(deviations[out]) == pytest.approx(scale * variance**0.5, abs=1e-9)


def test_constant_targets_and_an_empty_block_are_no_trouble() -> None:
    blocks = [torch.randn(10, 2, generator=torch.Generator().manual_seed(0)), torch.empty(10, 0)]
    means, deviations = fit_gaussian_process(blocks, torch.full((10,), 3.0)).predict(blocks)
    assert means.tolist() == pytest.approx([3.0] * 10)
    assert bool(deviations.isfinite().all())
