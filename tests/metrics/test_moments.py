"""Streamed moments against numpy's, whatever the batches, and their file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from minoritybench.errors import BadInputError
from minoritybench.metrics import FeatureMoments, RunningMoments, frechet_distance
from minoritybench.metrics import moments as module


@pytest.fixture
def rows() -> np.ndarray:
    """Far from zero, where a sum of squares would cancel."""
    return (np.random.default_rng(0).normal(size=(500, 12)) + 1000).astype(np.float32)


def test_agree_with_numpy(rows: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 64)
    found = FeatureMoments.of(rows)
    assert found.n == 500
    np.testing.assert_allclose(found.mean, rows.astype(np.float64).mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(found.covariance, np.cov(rows.astype(np.float64), rowvar=False), atol=1e-12)


@pytest.mark.parametrize("sizes", [[1] * 500, [499, 1], [63, 65, 0, 372], [256, 244]])
def test_batches_enter_no_bit(sizes: list[int], rows: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 64)
    whole, running = FeatureMoments.of(rows), RunningMoments()
    for part in np.split(rows, np.cumsum(sizes)[:-1]):
        running.add(part)
    found = running.moments()
    assert (found.mean.tobytes(), found.covariance.tobytes()) == (whole.mean.tobytes(), whole.covariance.tobytes())
    assert running.moments().n == 500  # asking changes nothing


def test_a_saved_reference_gives_the_same_distance(rows: np.ndarray, tmp_path: Path) -> None:
    FeatureMoments.of(rows).save(tmp_path / "real.safetensors")
    cached = FeatureMoments.load(tmp_path / "real.safetensors")
    fake = rows[:300] * 1.5
    assert frechet_distance(real=cached, fake=fake) == frechet_distance(real=rows, fake=fake)
    with pytest.raises(BadInputError, match="12 columns and fake ones 5"):
        frechet_distance(real=cached, fake=fake[:, :5])


def test_unfit_files_and_batches_are_refused(rows: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"no")
    with pytest.raises(BadInputError, match="cannot be read as feature moments"):
        FeatureMoments.load(path)
    save_file({"mean": np.zeros(3)}, path)
    with pytest.raises(BadInputError, match="holds no feature moments"):
        FeatureMoments.load(path)
    running = RunningMoments()
    with pytest.raises(BadInputError, match="2 rows or more, not 0"):
        running.moments()
    running.add(rows[:3])
    with pytest.raises(BadInputError, match="5 columns, those before it 12"):
        running.add(rows[:3, :5])
