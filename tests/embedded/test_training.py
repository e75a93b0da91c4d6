"""The training recipes, for a handful of steps, and the card they end in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from minoritybench.diffusion.schedule import make_schedule
from minoritybench.embedded.card import render
from minoritybench.embedded.card_figures import agreement
from minoritybench.embedded.models import TIMESTEPS, DigitsDenoiser
from minoritybench.embedded.recipes_common import Schedule, TrainingData, derive_seed, random_views, training_data
from minoritybench.embedded.recipes_encoders import koleo
from minoritybench.embedded.recipes_ijepa import mask_table
from minoritybench.embedded.train import RECIPES, save_tensors, train_one
from minoritybench.embedded.weights import load_file_into, weights_dir
from minoritybench.microbatch import torch_threads
from minoritybench.store import read_json


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return training_data()


def trained(name: str, seed: int, data: TrainingData) -> dict[str, Tensor]:
    """State of a model after three steps."""
    recipe = RECIPES[name]
    schedule = replace(recipe.schedule, steps=3, batch_size=32)
    with torch_threads(1):
        return recipe.train(data, seed, schedule, lambda step, loss: None).state_dict()


@pytest.mark.parametrize("name", RECIPES)
def test_training_is_bitwise_repeatable_and_follows_the_seed(name: str, data: TrainingData) -> None:
    torch.manual_seed(123)  # the ambient random state must not matter
    first = trained(name, 1, data)
    torch.manual_seed(456)
    again, other = trained(name, 1, data), trained(name, 2, data)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
    assert all(value.isfinite().all() for value in first.values())


def test_training_leaves_the_ambient_random_state_alone(data: TrainingData) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    trained("digits-classifier", 1, data)
    assert torch.equal(torch.rand(3), expected)


def test_every_model_has_its_own_seed() -> None:
    seeds = {derive_seed(run, name) for run in (0, 1) for name in RECIPES}
    assert len(seeds) == 2 * len(RECIPES)


def test_a_trained_file_loads_back(data: TrainingData, tmp_path: Path) -> None:
    recipe = replace(RECIPES["digits-jepa"], schedule=replace(RECIPES["digits-jepa"].schedule, steps=2))
    facts = train_one("digits-jepa", recipe, data, 0, tmp_path)
    path = tmp_path / "digits-jepa.safetensors"
    assert facts["bytes"] == path.stat().st_size
    assert facts["parameters"] == 26_896
    z = load_file_into("digits-jepa", path)(data.x[:4])
    torch.testing.assert_close(z.norm(dim=1), torch.ones(4))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, 2)}
    first, second = (save_tensors(tensors, tmp_path / name)["sha256"] for name in ("x", "y"))
    assert first == second


def test_learning_rate_rises_then_falls_to_zero() -> None:
    schedule = Schedule(steps=100, batch_size=1, lr=1.0, warmup=0.1)
    rates = [schedule.lr_at(step) for step in range(100)]
    assert max(rates) == pytest.approx(1.0, abs=0.01)
    assert rates[0] < 0.1
    assert rates[-1] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_views_without_any_change_return_the_image(data: TrainingData) -> None:
    x = data.x[:8]
    same = random_views(x, degrees=0, scale=0, shift=0, shear=0, intensity=0, noise=0)
    torch.testing.assert_close(same, x)
    moved = random_views(x, degrees=5, scale=0.05, shift=0.4, shear=0.15, intensity=0, noise=0)
    assert moved.min() >= -1 - 1e-6
    assert 0.05 < (moved - x).square().mean().sqrt() < 0.6


def test_koleo_is_lower_for_spread_points() -> None:
    spread = torch.eye(4)
    tight = torch.nn.functional.normalize(torch.ones(4, 4) + 0.1 * spread, dim=1)
    assert koleo(spread) == pytest.approx(-0.5 * torch.tensor(2.0).log().item(), abs=1e-3)
    assert koleo(tight) > koleo(spread) + 1


def test_masks_hide_two_disjoint_blocks() -> None:
    masks = mask_table()
    assert masks.shape[1] == 16
    assert all(sorted(row) == list(range(16)) for row in masks.tolist())
    hidden = {tuple(row[8:]) for row in masks.tolist()}
    assert len(hidden) == len(masks)
    assert (0, 1, 4, 5, 10, 11, 14, 15) in hidden


def test_denoiser_levels_are_those_of_the_sampling_schedule() -> None:
    table = make_schedule("cosine", str(TIMESTEPS)).alphas_cumprod
    signal, sigma = DigitsDenoiser().levels(torch.tensor([0, 499, 999]))
    assert signal.flatten().tolist() == pytest.approx((table[[0, 499, 999]] ** 0.5).tolist(), rel=1e-6)
    assert (signal**2 + sigma**2).flatten().tolist() == pytest.approx([1.0] * 3, rel=1e-6)


def test_agreement_of_a_score_with_itself_and_its_opposite() -> None:
    score = torch.arange(100.0).double().numpy()
    assert agreement(score, score) == {"spearman": pytest.approx(1.0), "lowest_quarter_overlap": 1.0}
    assert agreement(score, -score) == {"spearman": pytest.approx(-1.0), "lowest_quarter_overlap": 0.0}


def test_the_shipped_card_is_what_its_json_renders_to() -> None:
    folder = weights_dir()
    assert (folder / "CARD.md").read_text(encoding="utf-8") == render(read_json(folder / "card.json"))


def test_the_card_shows_the_encoders_order_of_merit() -> None:
    models = read_json(weights_dir() / "card.json")["models"]
    rho = {name: facts["figures"].get("knn_spearman_train") for name, facts in models.items()}
    assert rho["digits-jepa"] > 0.5
    assert rho["digits-jepa-b"] > 0.5
    assert rho["digits-vicreg"] < -0.3 < rho["digits-ijepa"]
