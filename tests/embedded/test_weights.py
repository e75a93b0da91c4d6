"""The shipped weight files and the modules they load into."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from minoritybench.embedded.card_figures import Digits, accuracy
from minoritybench.embedded.models import DigitsClassifier, DigitsDenoiser
from minoritybench.embedded.weights import (
    BUILDERS,
    PCA_NAME,
    WEIGHTS_VARIABLE,
    load_module,
    load_pca,
    random_module,
    weights_dir,
    weights_path,
)
from minoritybench.errors import MissingAssetError
from minoritybench.microbatch import torch_threads
from minoritybench.store import sha256_file

ENCODER_DIMS = {"digits-jepa": 16, "digits-jepa-b": 16, "digits-ijepa": 96, "digits-vicreg": 16}


@pytest.fixture(scope="module")
def test_split() -> Digits:
    return Digits.load("test")


def call(module: nn.Module, x: Tensor) -> Tensor:
    """Run any embedded module on images alone; the denoiser at a spread of time steps tied to the image."""
    if isinstance(module, DigitsDenoiser):
        step = ((x[:, 0, 2, 2] + 1) * 499).long()
        return module(x, step, step % 11).flatten(1)
    out: Tensor = module(x)
    return out


def test_the_shipped_files_are_small_and_match_their_card() -> None:
    card = json.loads((weights_dir() / "card.json").read_text(encoding="utf-8"))
    assert set(card["models"]) == {*BUILDERS, PCA_NAME}
    for name, facts in card["models"].items():
        path = weights_path(name)
        assert facts["sha256"] == sha256_file(path), name
        assert facts["bytes"] == path.stat().st_size, name
    assert sum(facts["bytes"] for facts in card["models"].values()) <= 3_000_000


def test_the_two_jepa_seeds_are_different_networks() -> None:
    first, second = load_module("digits-jepa").state_dict(), load_module("digits-jepa-b").state_dict()
    assert all(not torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", ENCODER_DIMS)
def test_encoder_outputs(name: str, test_split: Digits) -> None:
    module = load_module(name)
    z = module(test_split.x[:64])
    assert z.shape == (64, ENCODER_DIMS[name])
    assert z.dtype == torch.float32
    assert z.isfinite().all()
    assert not any(p.requires_grad for p in module.parameters())
    assert not module.training


@pytest.mark.parametrize("name", ["digits-jepa", "digits-jepa-b"])
def test_sphere_encoders_end_on_the_unit_sphere(name: str, test_split: Digits) -> None:
    norms = load_module(name)(test_split.x).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_classifier_accuracy_and_features(test_split: Digits) -> None:
    classifier = load_module("digits-classifier")
    assert isinstance(classifier, DigitsClassifier)
    assert classifier.features(test_split.x).shape == (297, 64)
    assert accuracy(classifier, test_split) >= 0.95


def test_denoiser_uses_its_label(test_split: Digits) -> None:
    net = load_module("digits-ddpm")
    x, step = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.full((64,), 600)
    free = net(x, step)
    assert free.shape == x.shape
    assert torch.equal(free, net(x, step, torch.full((64,), 10)))
    assert not torch.allclose(free, net(x, step, torch.full((64,), 3)), atol=1e-2)


def test_denoiser_predicts_noise(test_split: Digits) -> None:
    net = load_module("digits-ddpm")
    assert isinstance(net, DigitsDenoiser)
    noise = torch.randn(test_split.x.shape, generator=torch.Generator().manual_seed(0))
    step = torch.full((len(noise),), 500)
    signal, sigma = net.levels(step)
    error = (net(signal * test_split.x + sigma * noise, step) - noise).square().mean()
    assert error < 0.25  # predicting nothing scores 1


@pytest.mark.parametrize("source", ["shipped", "random"])
@pytest.mark.parametrize("name", BUILDERS)
def test_a_row_does_not_depend_on_its_neighbours(name: str, source: str, test_split: Digits) -> None:
    module = load_module(name) if source == "shipped" else random_module(name, seed=0)
    x = test_split.x[:64]
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    alone = torch.full_like(x, 0.25)
    alone[17] = x[5]
    with torch_threads(1), torch.no_grad():
        z = call(module, x)
        assert torch.equal(call(module, x[order]), z[order])
        assert torch.equal(call(module, alone)[17], z[5])


@pytest.mark.parametrize("name", BUILDERS)
def test_random_modules_are_seeded_and_have_no_dead_layer(name: str) -> None:
    first, again, other = (random_module(name, seed).state_dict() for seed in (0, 0, 1))
    assert all(value.any() for value in first.values())
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_pca_components_are_orthonormal(test_split: Digits) -> None:
    mean, components = load_pca()
    assert mean.shape == (64,)
    np.testing.assert_allclose(components @ components.T, np.eye(20), atol=1e-5)
    pixels = test_split.x.flatten(1).numpy() - mean
    kept = np.square(pixels @ components.T).sum() / np.square(pixels).sum()
    assert kept > 0.85


def test_missing_weights_say_how_to_rebuild_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    with pytest.raises(MissingAssetError) as caught:
        load_module("digits-jepa")
    message = str(caught.value)
    assert str(tmp_path / "digits-jepa.safetensors") in message
    assert f"python -m minoritybench.embedded.train --out {tmp_path}" in message
    assert "\n" not in message
    with pytest.raises(MissingAssetError, match="digits-pca20"):
        load_pca()


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="digits-jeppa"):
        weights_path("digits-jeppa")
