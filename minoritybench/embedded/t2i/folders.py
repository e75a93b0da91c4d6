"""What the trained networks look like on disk: a diffusers pipeline and a transformers CLIP, float16."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from minoritybench.embedded.t2i.networks import CLIP_MEAN_AND_STD, IMAGE_SIZE, SCHEDULER
from minoritybench.embedded.t2i.tokenizer import write_tokenizer
from minoritybench.embedded.weights import t2i_dir
from minoritybench.errors import MissingAssetError
from minoritybench.store import pretty_json, read_json, write_text

PIPELINE = "pipeline"
CLIP = "digits-clip"


def pipeline_folder() -> Path:
    """The shipped Stable Diffusion, for `StableDiffusionPipeline.from_pretrained`; exit 4 where it is missing."""
    return _existing(PIPELINE, "model_index.json")


def clip_folder() -> Path:
    """The shipped CLIP, for `CLIPModel` and `CLIPProcessor`; exit 4 where it is missing."""
    return _existing(CLIP, "config.json")


def open_pipeline(folder: Path) -> Any:
    """The `StableDiffusionPipeline` of a folder in float32, nothing downloaded, no progress bar."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, low_cpu_mem_usage=False, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write_vae(vae: Any, folder: Path) -> None:
    """The autoencoder's part of a pipeline folder."""
    _half(vae).save_pretrained(folder / "vae")


def load_vae(folder: Path) -> Any:
    """The autoencoder of a pipeline folder, frozen, float32."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(folder / "vae", low_cpu_mem_usage=False, local_files_only=True)
    return vae.float().eval().requires_grad_(False)


def write_pipeline(unet: Any, text_encoder: Any, vae: Any, folder: Path) -> None:
    """A whole pipeline folder, with a DDIM scheduler at Stable Diffusion's settings and no safety checker."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTokenizer

    tokenizer = folder / "tokenizer"
    write_tokenizer(tokenizer)
    pipeline: Any = StableDiffusionPipeline(
        vae=_half(vae),
        text_encoder=_half(text_encoder),
        tokenizer=CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True),
        unet=_half(unet),
        scheduler=DDIMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    _restore_tokenizer(tokenizer)
    _tidy(folder)


def write_clip(clip: Any, folder: Path) -> None:
    """A CLIP folder: configuration, weights, tokenizer, and an image processor that only scales and normalises."""
    from transformers import CLIPImageProcessor

    _half(clip).save_pretrained(folder)
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    statistics = [CLIP_MEAN_AND_STD] * 3
    CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE}, crop_size=side, image_mean=statistics, image_std=statistics
    ).save_pretrained(folder)
    write_tokenizer(folder)
    _tidy(folder)


def _half(module: Any) -> Any:
    """A float16 copy; the trained module itself stays as it is."""
    return copy.deepcopy(module).half()


def _tidy(folder: Path) -> None:
    """Weights readable to all, configurations that name no path of this machine and compute in float32.

    safetensors writes for the owner alone, and a wheel would keep that. transformers loads a model in the precision
    that its configuration names, and would run the text encoder in float16 beside a float32 U-Net.
    """
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)
    for path in (*folder.glob("model_index.json"), *folder.rglob("config.json")):
        settings = read_json(path)
        settings.pop("_name_or_path", None)
        if "dtype" in settings:
            settings["dtype"] = "float32"
        write_text(path, pretty_json(settings))


def _restore_tokenizer(folder: Path) -> None:
    """The three plain files again: transformers 5 saves one `tokenizer.json`, which older readers do not know."""
    for path in folder.iterdir():
        path.unlink()
    write_tokenizer(folder)


def _existing(name: str, inside: str) -> Path:
    folder = t2i_dir() / name
    if not (folder / inside).is_file():
        raise MissingAssetError(
            f"embedded weights are missing: {folder / inside} does not exist; "
            f"`python -m minoritybench.embedded.t2i.train --out {folder.parent}` rebuilds them there"
        )
    return folder
