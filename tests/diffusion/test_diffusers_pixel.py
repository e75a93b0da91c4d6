"""Pixel models in diffusers' format: loaded from a folder, read as their own scheduler reads them, sampled."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image
from safetensors.torch import load_file, save_file

from minoritybench.diffusion.diffusers_pixel import load_diffusers_pixel
from minoritybench.diffusion.schedule import make_schedule
from minoritybench.diffusion.step import predict
from minoritybench.encoders.module import randomise
from minoritybench.errors import BadInputError, MissingAssetError

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes a tiny DDPMPipeline folder and returns it."""

    def write(name: str = "tiny", scheduler: dict[str, Any] | None = None, **network: Any) -> Path:
        shape = {"in_channels": 3, "out_channels": 3, **network}
        unet = UNet2DModel(
            sample_size=8,
            block_out_channels=(32, 32),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            **shape,
        )
        randomise(unet)
        folder = tmp_path / name
        DDPMPipeline(unet, DDPMScheduler(**(scheduler or {}))).save_pretrained(folder)
        return folder

    return write


def _noise(batch: int = 2, channels: int = 3) -> torch.Tensor:
    return torch.randn(batch, channels, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("kind", ["linear", "squaredcos_cap_v2"])
def test_estimate_and_variance_are_those_of_its_own_scheduler(variance: str, kind: str, save: Save) -> None:
    folder = save(scheduler={"variance_type": variance, "beta_schedule": kind, "clip_sample": False})
    model = load_diffusers_pixel(f"diffusers:{folder}")
    unet, scheduler = UNet2DModel.from_pretrained(folder / "unet"), DDPMScheduler.from_pretrained(folder / "scheduler")
    schedule = make_schedule(model.schedule, "1000")
    x = _noise()
    for timestep in (1, 400, 990):
        with torch.no_grad():
            ours = predict(model, schedule, x, timestep, None, Counter())
            eps = unet(x, timestep).sample
        theirs = scheduler.step(eps, timestep, x).pred_original_sample
        torch.testing.assert_close(ours.eps, eps, rtol=0, atol=0)
        torch.testing.assert_close(ours.x0_hat, theirs, rtol=1e-3, atol=1e-4)
        expected = float(scheduler._get_variance(timestep))
        torch.testing.assert_close(ours.log_variance.exp(), torch.full_like(x, expected), rtol=1e-3, atol=0)


def test_learned_variance_greyscale_and_classes(save: Save) -> None:
    folder = save(scheduler={"variance_type": "learned_range"}, in_channels=1, out_channels=2, num_class_embeds=4)
    model = load_diffusers_pixel(f"diffusers:{folder}")
    assert (model.state_shape, model.num_classes, model.requires_labels) == ((1, 8, 8), 4, True)
    x = _noise(channels=1)
    output = model.predict(x, torch.tensor([5, 5]), torch.tensor([0, 3]))
    assert output.shape == (2, 2, 8, 8)
    assert model.decode(x).shape == (2, 3, 8, 8)


def test_gradient_reaches_the_input_and_bfloat16_stays_near(save: Save) -> None:
    folder = save()
    x = _noise(4).requires_grad_()
    outputs = []
    for dtype in ("float32", "bfloat16"):
        output = load_diffusers_pixel(f"diffusers:{folder}", dtype=dtype).predict(x, torch.full((4,), 500), None)
        assert output.dtype == torch.float32
        outputs.append((output.detach(), torch.autograd.grad(output.sum(), x)[0]))
    (fine, slope), (coarse, rough_slope) = outputs
    assert 1e-4 < (fine - coarse).square().mean().sqrt() / fine.square().mean().sqrt() < 0.03
    assert torch.nn.functional.cosine_similarity(slope.flatten(), rough_slope.flatten(), dim=0) > 0.99


def test_flat_folders_load_and_the_digest_covers_the_scheduler(save: Save, tmp_path: Path) -> None:
    nested, flat = save(), tmp_path / "flat"
    flat.mkdir()
    for part in ("unet", "scheduler"):
        for file in (nested / part).iterdir():
            (flat / file.name).write_bytes(file.read_bytes())
    first, second = (load_diffusers_pixel(f"diffusers:{folder}") for folder in (nested, flat))
    assert first.weights_sha256 == second.weights_sha256
    config = flat / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "variance_type": "fixed_large"}))
    assert load_diffusers_pixel(f"diffusers:{flat}").weights_sha256 != first.weights_sha256


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}, "prediction_type 'v_prediction'"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "scaled_linear"}, "beta_schedule 'scaled_linear'"),
        ("scheduler/scheduler_config.json", {"beta_end": 0.012}, "betas from 0.0001 to 0.012 in 1000 steps"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 500}, "in 500 steps"),
        ("scheduler/scheduler_config.json", {"variance_type": "learned"}, "variance_type 'learned'"),
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel; only UNet2DModel"),
    ],
)
def test_models_of_another_kind_are_refused(file: str, changes: dict[str, Any], message: str, save: Save) -> None:
    folder = save()
    _edit(folder / file, **changes)
    with pytest.raises(BadInputError, match=message):
        load_diffusers_pixel(f"diffusers:{folder}")


def test_weights_that_do_not_fit_are_refused_not_filled_in(save: Save) -> None:
    folder = save()
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["conv_out.bias"]
    save_file(tensors, path)
    with pytest.raises(BadInputError, match=r"missing conv_out\.bias"):
        load_diffusers_pixel(f"diffusers:{folder}")


def test_old_bin_files_with_the_attention_names_of_then_load(save: Save) -> None:
    folder, x, timestep = save(), _noise(), torch.tensor([5, 500])
    expected = load_diffusers_pixel(f"diffusers:{folder}").predict(x, timestep, None)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for key, value in load_file(path).items():
        new = next((key.replace(now, then) for now, then in names.items() if f".{now}." in key), key)
        tensors[new] = value
    assert "mid_block.attentions.0.proj_attn.weight" in tensors
    torch.save(tensors, path.with_suffix(".bin"))
    path.unlink()
    found = load_diffusers_pixel(f"diffusers:{folder}").predict(x, timestep, None)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_absent_models_are_told_and_nothing_is_fetched(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(MissingAssetError, match="hf download google/ddpm-cifar10-32"):
        load_diffusers_pixel("diffusers:google/ddpm-cifar10-32")
    folder = save()
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(MissingAssetError, match=r"diffusion_pytorch_model\.safetensors is not there"):
        load_diffusers_pixel(f"diffusers:{folder}")


def test_sample_command_end_to_end(save: Save, tmp_path: Path) -> None:
    folder, out = save(scheduler={"variance_type": "fixed_large"}), tmp_path / "out"
    words = ["sample", "--benchmark", "digits", "--generator", f"diffusers:{folder}", "--method", "adm"]
    words += ["--n", "2", "--seed", "4", "--out", str(out), "--json"]
    done = subprocess.run([sys.executable, "-m", "minoritybench", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["passes"] == {"denoiser_forward": 50}
    images = [np.asarray(Image.open(out / "seed-4" / f"0000{i}.png")) for i in range(2)]
    assert images[0].shape == (8, 8, 3)
    assert not np.array_equal(*images)
    plan = json.loads((out / "plan.json").read_text())
    assert plan["generator"]["name"] == "diffusers:tiny"
    assert plan["generator_threads"] >= 1
