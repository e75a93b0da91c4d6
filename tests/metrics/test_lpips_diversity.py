"""Mean distance of random pairs, with the Euclidean distance in place of LPIPS' weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from minoritybench.errors import BadInputError, MissingAssetError
from minoritybench.metrics import lpips_diversity
from minoritybench.metrics.lpips_diversity import random_pairs


def test_pairs_are_of_different_images_and_all_equally_likely() -> None:
    first, second = random_pairs(4, 12000, seed=0)
    counts = np.bincount((first * 4 + second).numpy(), minlength=16).reshape(4, 4)
    assert not counts.diagonal().any()
    assert counts[~np.eye(4, dtype=bool)] == pytest.approx(1000, abs=150)


def test_is_the_mean_over_the_pairs_in_diffusion_space() -> None:
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    first, second = random_pairs(6, 21, seed=5)
    expected = 2 * (images[first] - images[second]).double().square().sum(dim=(1, 2, 3)).sqrt().mean()
    found = lpips_diversity(fake=images, pairs=21, distance="l2", seed=5)
    assert found.value == pytest.approx(float(expected), rel=1e-6)
    assert found.params == {"n_fake": 6, "pairs": 21, "distance": "l2", "weights_sha256": None, "seed": 5}
    assert lpips_diversity(fake=images[:1].expand(3, -1, -1, -1), pairs=9, distance="l2").value == 0


def test_absent_weights_and_unfit_images_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingAssetError, match="alexnet"):
        lpips_diversity(fake=torch.rand(3, 3, 64, 64))
    with pytest.raises(BadInputError, match=r"\(M, C, H, W\) floats"):
        lpips_diversity(fake=torch.zeros(3, 3, 8, 8, dtype=torch.uint8), distance="l2")
