"""Inception Score against closed forms and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minoritybench.errors import BadInputError
from minoritybench.metrics import inception_score


def test_uniform_is_one_and_balanced_one_hot_the_number_of_classes() -> None:
    assert inception_score(fake=np.zeros((40, 10))).value == pytest.approx(1.0, abs=1e-12)
    sure = np.tile(np.eye(10) * 2000 - 1000, (7, 1))  # probabilities that underflow to zero
    assert inception_score(fake=sure).value == pytest.approx(10.0, rel=1e-12)


def test_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.inception import InceptionScore

    logits = np.random.default_rng(0).normal(size=(60, 12)) * 3
    theirs = InceptionScore(feature=torch.nn.Identity(), splits=1)
    theirs.features, theirs._update_count = [torch.from_numpy(logits)], 1
    assert inception_score(fake=logits).value == pytest.approx(float(theirs.compute()[0]), rel=1e-6)


def test_parts_are_sequential_chunks_or_seeded_splits() -> None:
    logits = np.random.default_rng(1).normal(size=(50, 6)) * 2
    parts = [inception_score(fake=logits[start : start + 20]).value for start in (0, 20, 40)]
    found = inception_score(fake=logits, chunk=20)
    assert found.value == pytest.approx(np.mean(parts), rel=1e-12)
    assert found.details["sd_over_parts"] == pytest.approx(np.std(parts, ddof=1), rel=1e-12)
    split = inception_score(fake=logits, splits=5, seed=3)
    order = np.random.default_rng(3).permutation(50)
    again = [inception_score(fake=logits[rows]).value for rows in np.split(order, 5)]
    assert split.value == pytest.approx(np.mean(again), rel=1e-12)
    assert split.params == {"n_fake": 50, "splits": 5, "seed": 3}
    with pytest.raises(BadInputError, match="splits must be 1 to 50"):
        inception_score(fake=logits, splits=51)
