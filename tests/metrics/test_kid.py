"""KID against closed forms, torchmetrics and clean-fid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minoritybench.errors import BadInputError
from minoritybench.metrics import kid
from minoritybench.metrics.kid import unbiased_mmd


@pytest.mark.parametrize("width", [1, 8])
def test_zeros_against_ones_is_seven(width: int) -> None:
    assert kid(real=np.zeros((50, width)), fake=np.ones((50, width))).value == 7.0


def test_a_set_against_itself_is_below_zero() -> None:
    """The cross term holds every row paired with itself, the others do not."""
    rows = np.random.default_rng(0).normal(size=(200, 16))
    assert unbiased_mmd(rows, rows) < 0


def test_equal_distributions_average_to_zero() -> None:
    rng = np.random.default_rng(1)
    values = [unbiased_mmd(rng.normal(size=(60, 8)), rng.normal(size=(90, 8))) for _ in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 300**0.5


def test_agrees_with_torchmetrics_over_whole_sets() -> None:
    """Subsets as large as the sets hold every row, so that random draws agree too."""
    from torchmetrics.image.kid import KernelInceptionDistance

    rng = np.random.default_rng(2)
    real, fake = rng.normal(size=(70, 32)), rng.normal(size=(70, 32)) * 1.2 + 0.1
    theirs = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=2, subset_size=70)
    theirs.reset_real_features = True
    theirs.real_features, theirs.fake_features = [torch.from_numpy(real)], [torch.from_numpy(fake)]
    theirs._update_count = 1
    assert kid(real=real, fake=fake).value == pytest.approx(float(theirs.compute()[0]), rel=1e-6)


def test_agrees_with_clean_fid_within_the_noise_of_subsets() -> None:
    from cleanfid.fid import kernel_distance

    rng = np.random.default_rng(3)
    real, fake = rng.normal(size=(600, 32)), rng.normal(size=(500, 32)) * 1.1 + 0.4
    ours = kid(real=real, fake=fake, subsets=400, size=100)
    error = ours.details["sd_over_overlapping_subsets"] / 400**0.5
    assert ours.value == pytest.approx(kernel_distance(real, fake, 400, 100), abs=5 * error)
    assert error < 0.1 * ours.value


def test_subsets_are_seeded_and_recorded() -> None:
    rng = np.random.default_rng(4)
    real, fake = rng.normal(size=(60, 4)), rng.normal(size=(40, 4))
    found = kid(real=real, fake=fake, subsets=5, size=30, seed=1)
    assert found == kid(real=real, fake=fake, subsets=5, size=30, seed=1)
    assert found.value != kid(real=real, fake=fake, subsets=5, size=30, seed=2).value
    assert found.params == {"n_real": 60, "n_fake": 40, "subsets": 5, "subset_size": 30, "seed": 1}
    assert (found.ci_low, found.ci_high) == (None, None)
    assert kid(real=real, fake=fake).params["subset_size"] == 40
    with pytest.raises(BadInputError, match="1 subset of 2 rows"):
        kid(real=real, fake=fake, size=1)
