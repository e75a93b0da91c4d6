"""Latent pipelines from folders and the hub's cache: what is accepted, what is refused, what is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tiny_pipelines import tiny_sd, tiny_sdxl

import minoritybench
from minoritybench.diffusion import diffusers_files
from minoritybench.diffusion.latent import files
from minoritybench.diffusion.latent.loading import load_latent
from minoritybench.errors import BadInputError, MissingAssetError

Copy = Callable[[str], Path]
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {"sd": tiny_sd(root / "sd"), "sdxl": tiny_sdxl(root / "sdxl")}


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Copy:
    """A pipeline to spoil."""
    return lambda kind: Path(shutil.copytree(folders[kind], tmp_path / kind))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache of our own: OWNER--NAME folders in it stand for snapshots."""
    root = tmp_path / "hub"

    def snapshot(repo: str) -> Path | None:
        folder = root / repo.replace("/", "--")
        return folder if folder.is_dir() else None

    for module in (files, diffusers_files):
        monkeypatch.setattr(module, "cached_snapshot", snapshot)
    return root


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def output(name: str, **options: Any) -> torch.Tensor:
    model = load_latent(name, **options)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return model.predict(x, torch.tensor([500]), model.encode_prompts(["a cat"], 5.0))


def test_identity(folders: dict[str, Path], copy: Copy) -> None:
    model = load_latent(f"latent:{folders['sd']}")
    assert (model.name, model.dtype, model.schedule, model.train_steps) == (
        "latent:sd",
        "float32",
        "scaled_linear",
        1000,
    )
    assert (model.state_shape, model.image_size, model.num_classes) == ((4, 8, 8), 64, None)
    assert (model.micro_batch, model.threads) == (16, 1)
    folder = copy("sd")
    assert load_latent(f"latent:{folder}").weights_sha256 == model.weights_sha256
    edit(folder / "scheduler" / "scheduler_config.json", steps_offset=0)
    assert load_latent(f"latent:{folder}").weights_sha256 != model.weights_sha256


def test_files_of_older_versions_and_half_precision_load(folders: dict[str, Path], copy: Copy) -> None:
    """Text encoders whose keys begin with `text_model.`, vocabulary and merges in two files, `*.fp16.safetensors`."""
    folder = copy("sd")
    expected = output(f"latent:{folders['sd']}")
    text = folder / "text_encoder" / "model.safetensors"
    tensors = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in load_file(text).items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(16)[None]
    save_file(tensors, text, metadata={"format": "pt"})
    (folder / "tokenizer" / "tokenizer.json").unlink()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(folders["sd"].parent / name, folder / "tokenizer" / name)
    torch.testing.assert_close(output(f"latent:{folder}"), expected, rtol=0, atol=0)
    unet = load_file(folder / UNET)
    save_file({key: value.half() for key, value in unet.items()}, folder / UNET.replace(".safe", ".fp16.safe"))
    (folder / UNET).unlink()
    torch.testing.assert_close(output(f"latent:{folder}"), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("kind", "file", "changes", "message"),
    [
        ("sd", "scheduler/scheduler_config.json", {"prediction_type": "sample"}, "has prediction_type 'sample'; known"),
        ("sd", "scheduler/scheduler_config.json", {"beta_schedule": "squaredcos_cap_v2"}, "squaredcos_cap_v2"),
        ("sd", "scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        (
            "sd",
            "model_index.json",
            {"_class_name": "FluxPipeline"},
            "a FluxPipeline; known are StableDiffusionPipeline",
        ),
        ("sd", "unet/config.json", {"_class_name": "UNet2DModel"}, "a UNet2DModel; only UNet2DConditionModel"),
        ("sd", "vae/config.json", {"latents_mean": [0.0, 0.0, 0.0, 0.0]}, "it has latents_mean"),
    ],
)
def test_pipelines_of_another_kind_are_refused(
    kind: str, file: str, changes: dict[str, Any], message: str, copy: Copy
) -> None:
    folder = copy(kind)
    edit(folder / file, **changes)
    with pytest.raises(BadInputError, match=message):
        load_latent(f"latent:{folder}")


@pytest.mark.parametrize("file", [UNET, "text_encoder/model.safetensors"])
def test_cut_weights_are_told_as_such(file: str, copy: Copy) -> None:
    folder = copy("sd")
    (folder / file).write_bytes((folder / file).read_bytes()[:1000])
    with pytest.raises(BadInputError, match=rf"{Path(file).name} cannot be read as weights of latent:"):
        load_latent(f"latent:{folder}")


@pytest.mark.parametrize(
    ("file", "key"),
    [
        (UNET, "conv_out.bias"),
        ("vae/diffusion_pytorch_model.safetensors", "decoder.conv_out.bias"),
        ("text_encoder/model.safetensors", "final_layer_norm.bias"),
    ],
)
def test_weights_that_do_not_fit_are_refused_not_filled_in(file: str, key: str, copy: Copy) -> None:
    folder = copy("sd")
    tensors = load_file(folder / file)
    bias = tensors.pop(key)
    save_file(tensors, folder / file, metadata={"format": "pt"})
    with pytest.raises(BadInputError, match=rf"{Path(file).name} does not fit its config.json: missing {key}"):
        load_latent(f"latent:{folder}")
    save_file({**tensors, key: bias, "odd": bias.clone()}, folder / file, metadata={"format": "pt"})
    with pytest.raises(BadInputError, match="unexpected odd"):
        load_latent(f"latent:{folder}")


def test_all_that_a_folder_lacks_is_told_at_once(copy: Copy) -> None:
    folder = copy("sdxl")
    for file in (UNET, "text_encoder_2/model.safetensors", "vae/config.json"):
        (folder / file).unlink()
    shutil.rmtree(folder / "tokenizer_2")
    with pytest.raises(MissingAssetError) as caught:
        load_latent(f"latent:{folder}")
    said = str(caught.value)
    assert "\n" not in said
    for file in (UNET, "text_encoder_2/model.safetensors", "vae/config.json", "tokenizer_2/tokenizer_config.json"):
        assert f"{file}, " in said or f"{file} in " in said
    assert f"in {folder}" in said


@pytest.mark.usefixtures("cache")
def test_one_small_file_is_counted_as_one() -> None:
    place = files._Place("someone/model", {"unet/weights.safetensors": "1 GB"})
    for name in ("unet/weights.safetensors", "unet/config.json"):
        place.file(name)
    assert place.told().startswith("unet/weights.safetensors (1 GB), 1 small file of https://")


@pytest.mark.usefixtures("cache")
def test_absent_generators_name_every_file_its_size_and_the_command() -> None:
    with pytest.raises(MissingAssetError) as caught:
        load_latent("sdxl-lightning")
    said = str(caught.value)
    assert "\n" not in said
    assert "text_encoder_2/model.safetensors (2.8 GB), 11 small files of https://huggingface.co/stabilityai" in said
    assert "hf download stabilityai/stable-diffusion-xl-base-1.0 model_index.json" in said
    assert "sdxl_lightning_4step_unet.safetensors (5.1 GB) of https://huggingface.co/ByteDance/SDXL-Lightning" in said
    assert "hf download madebyollin/sdxl-vae-fp16-fix config.json diffusion_pytorch_model.safetensors" in said
    assert UNET not in said  # the base's U-Net is not needed
    with pytest.raises(MissingAssetError, match=r"unet/diffusion_pytorch_model\.safetensors \(3\.4 GB\)"):
        load_latent("sd15")
    with pytest.raises(MissingAssetError, match=r"no pipeline folder 'someone/something' here .*`hf download someone"):
        load_latent("latent:someone/something")


def test_lightning_takes_its_unet_and_vae_from_elsewhere(folders: dict[str, Path], cache: Path) -> None:
    base = Path(shutil.copytree(folders["sdxl"], cache / "stabilityai--stable-diffusion-xl-base-1.0"))
    swap = cache / "ByteDance--SDXL-Lightning" / "sdxl_lightning_4step_unet.safetensors"
    swap.parent.mkdir()
    tensors = {key: value.clone() for key, value in load_file(base / UNET).items()}
    tensors["conv_out.weight"] *= 2
    tensors["conv_out.bias"] *= 2
    save_file(tensors, swap)
    (base / UNET).unlink()
    shutil.move(base / "vae", cache / "madebyollin--sdxl-vae-fp16-fix")
    torch.testing.assert_close(output("sdxl-lightning"), 2 * output(f"latent:{folders['sdxl']}"), rtol=1e-5, atol=1e-5)
    model = load_latent("sdxl-lightning")
    assert model.name == "sdxl-lightning"
    del tensors["conv_out.bias"]
    save_file(tensors, swap)
    with pytest.raises(BadInputError, match=r"does not hold the weights of .*: it lacks conv_out\.bias"):
        load_latent("sdxl-lightning")


def test_sampled_like_any_generator(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\nseven!\na dog\n")
    images = []
    for n in (3, 2):
        minoritybench.sample(
            "ddim",
            tmp_path / str(n),
            benchmark="sdxl-lightning-coco",
            generator=f"latent:{folders['sdxl']}",
            prompts=tmp_path / "prompts.txt",
            n=n,
            seeds=[1],
        )
        images.append([path.read_bytes() for path in sorted((tmp_path / str(n)).glob("seed-1/*.png"))])
    assert len(set(images[0])) == 3
    assert images[1] == images[0][:2]


def test_precisions(folders: dict[str, Path]) -> None:
    with pytest.raises(BadInputError, match=r"--dtype float16: .* on a GPU only"):
        load_latent(f"latent:{folders['sd']}", dtype="float16")
    with pytest.raises(BadInputError, match="--dtype int8"):
        load_latent(f"latent:{folders['sd']}", dtype="int8")


def test_an_incomplete_repository_in_the_hub_s_cache(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: Any
) -> None:
    """As the hub's own tools lay it out."""
    root = tmp_path / "models--owner--name"
    shutil.copytree(folders["sd"], root / "snapshots" / ("0" * 40))
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert load_latent("latent:owner/name").name == "latent:owner/name"
    (root / "snapshots" / ("0" * 40) / UNET).unlink()
    with pytest.raises(
        MissingAssetError, match=rf"{UNET} of https://huggingface.co/owner/name: `hf download owner/name"
    ):
        load_latent("latent:owner/name")
