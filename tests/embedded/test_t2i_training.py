"""The text-to-image recipes for a few steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minoritybench.embedded.t2i import train
from minoritybench.embedded.t2i.folders import open_pipeline
from minoritybench.microbatch import torch_threads
from minoritybench.store import read_json


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, stage in train.STAGES.items():
        monkeypatch.setitem(train.STAGES, name, replace(stage, schedule=replace(stage.schedule, steps=2, batch_size=8)))
    for name, recipe in train.ENCODER_RECIPES.items():
        schedule = replace(recipe.schedule, steps=2, batch_size=8)
        monkeypatch.setitem(train.ENCODER_RECIPES, name, replace(recipe, schedule=schedule))


@pytest.mark.usefixtures("short")
def test_stages_write_folders_that_open_and_are_repeatable(tmp_path: Path) -> None:
    only = [flag for name in train.NAMES for flag in ("--only", name)]
    for folder in ("first", "again"):
        torch.manual_seed(len(folder))  # the ambient random state must not matter
        with torch_threads(1):
            train.main(["--out", str(tmp_path / folder), *only])
    first, again = (read_json(tmp_path / folder / "card.json") for folder in ("first", "again"))
    assert first["files"] == again["files"]
    assert set(first["models"]) == set(train.NAMES)
    assert first["figures"] == {}
    assert open_pipeline(tmp_path / "first" / "pipeline").vae.config.scaling_factor > 0
    stored = load_file(tmp_path / "first" / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


@pytest.mark.usefixtures("short")
def test_another_seed_gives_another_model(tmp_path: Path) -> None:
    for seed in ("0", "1"):
        train.main(["--out", str(tmp_path / seed), "--seed", seed, "--only", "digits-clip"])
    first, other = (read_json(tmp_path / seed / "card.json")["files"] for seed in ("0", "1"))
    weights = "digits-clip/model.safetensors"
    assert first[weights]["sha256"] != other[weights]["sha256"]
    assert first["digits-clip/merges.txt"] == other["digits-clip/merges.txt"]
