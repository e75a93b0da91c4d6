"""Training of a classifier of noised images: resume, held-out split, balance, what the network receives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minoritybench.diffusion.schedule import cosine_betas
from minoritybench.errors import BadInputError
from minoritybench.prepare import training
from minoritybench.prepare.classifier import GuideConfig
from minoritybench.prepare.figures import held_out_figures
from minoritybench.prepare.images import ImageStore
from minoritybench.prepare.training import CHECKPOINT, Task, TrainingRecipe, augmented, balanced_indices, noised, train

RECIPE = TrainingRecipe(iterations=30, batch_size=32, learning_rate=3e-3, held_out=0.2, augment="none")


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """Bright against dark images, two files of them, three to one."""
    rng = np.random.default_rng(0)
    targets = (np.arange(120) % 4 == 0).astype(np.int64)
    pixels = rng.integers(0, 100, (120, 1, 8, 8)) + 120 * targets[:, None, None, None]
    files = (tmp_path / "a.npy", tmp_path / "b.npy")
    np.save(files[0], pixels[:50].astype(np.uint8))
    np.save(files[1], pixels[50:].astype(np.uint8))
    store = ImageStore(files, (50, 70), None, "token")
    abar = np.cumprod(1 - cosine_betas())
    return Task(GuideConfig("film-mlp", (1, 8, 8), 2), store, targets, None, abar, RECIPE, 0, "cpu")


def weights(net: torch.nn.Module) -> list[bytes]:
    return [value.numpy().tobytes() for value in net.state_dict().values()]


class KilledError(Exception):
    pass


def test_a_resumed_training_ends_with_the_bytes_of_an_unbroken_one(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(task, tmp_path / "whole", "toy")
    (tmp_path / "broken").mkdir()
    save = training.Checkpoint.save

    def save_then_die(self: Any, step: int) -> None:
        save(self, step)
        if step == 11:
            raise KilledError

    monkeypatch.setattr(training.Checkpoint, "save_if_due", lambda self, step: save_then_die(self, step))
    with pytest.raises(KilledError):
        train(task, tmp_path / "broken", "toy")
    monkeypatch.undo()
    steps: list[int] = []
    monkeypatch.setattr(training.Checkpoint, "save_if_due", lambda self, step: steps.append(step))
    resumed = train(task, tmp_path / "broken", "toy")
    assert steps == list(range(12, 31))
    assert weights(resumed) == weights(whole)


def test_a_checkpoint_of_another_task_is_not_taken(task: Task, tmp_path: Path) -> None:
    train(task, tmp_path / "a", "toy")
    other = replace(task, recipe=replace(RECIPE, learning_rate=1e-3))
    fresh = train(other, tmp_path / "fresh", "toy")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / CHECKPOINT).write_bytes((tmp_path / "a" / CHECKPOINT).read_bytes())
    assert weights(train(other, tmp_path / "b", "toy")) == weights(fresh)


def test_a_damaged_checkpoint_is_one_line(task: Task, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"damaged")
    with pytest.raises(BadInputError, match="--force starts over"):
        train(task, tmp_path, "toy")


def test_it_learns_and_its_figures_are_of_images_never_trained_on(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: set[int] = set()
    take = ImageStore.take

    def spy(self: ImageStore, indices: Any) -> torch.Tensor:
        drawn.update(np.asarray(indices).tolist())
        return take(self, indices)

    monkeypatch.setattr(ImageStore, "take", spy)
    net = train(task, tmp_path, "toy")
    members, held = task.split()
    assert drawn.isdisjoint(held.tolist())
    assert drawn == set(np.concatenate(members).tolist())
    figures = held_out_figures(net, task)
    assert figures["images"] == len(held) == 24
    assert figures["chance"] == pytest.approx(18 / 24)
    assert figures["accuracy"]["0"] > 0.95
    assert figures["accuracy"]["750"] < figures["accuracy"]["0"]


def test_split_is_stratified_and_complete(task: Task) -> None:
    members, held = task.split()
    assert sorted(np.concatenate([*members, held]).tolist()) == list(range(120))
    assert [len(m) for m in members] == [72, 24]
    with pytest.raises(BadInputError, match="output 1"):
        replace(task, targets=np.zeros(120, np.int64)).split()


def test_batches_are_balanced_whatever_the_counts() -> None:
    members = [np.arange(900), np.arange(900, 910)]
    drawn = balanced_indices(members, 4000, torch.Generator().manual_seed(0))
    assert abs((drawn >= 900).mean() - 0.5) < 0.03
    assert set(drawn[drawn >= 900]) == set(range(900, 910))


def test_noising_is_the_forward_process(task: Task) -> None:
    x0 = torch.ones(2000, 1, 8, 8)
    t = torch.full((2000,), 300)
    x_t = noised(task.alphas_cumprod, x0, t, torch.Generator().manual_seed(0))
    abar = float(np.prod(1 - cosine_betas()[:301]))
    assert float(x_t.mean()) == pytest.approx(abar**0.5, abs=0.01)
    assert float(x_t.var()) == pytest.approx(1 - abar, abs=0.01)


def test_augmentation_crops_and_mirrors() -> None:
    ramp = torch.linspace(-1, 1, 64).expand(200, 1, 64, 64)
    views = augmented(ramp, "crop-flip", torch.Generator().manual_seed(0))
    slope = views[:, 0, 0, 40] - views[:, 0, 0, 20]
    assert 0.3 < float((slope < 0).float().mean()) < 0.7
    shrink = slope.abs() / float(ramp[0, 0, 0, 40] - ramp[0, 0, 0, 20])
    assert float(shrink.min()) >= 0.8**0.5 - 1e-4
    assert float(shrink.max()) <= 1 + 1e-4
    upright = augmented(ramp, "crop", torch.Generator().manual_seed(0))
    assert (upright[:, 0, 0, 40] > upright[:, 0, 0, 20]).all()
    assert augmented(ramp, "none", torch.Generator()) is ramp


def test_senseless_recipes_are_refused() -> None:
    for bad in ({"iterations": 0}, {"held_out": 1.0}, {"learning_rate": 0.0}, {"weight_decay": -1.0}):
        with pytest.raises(BadInputError, match="mg: "):
            TrainingRecipe(**bad).check("mg")  # type: ignore[arg-type]
