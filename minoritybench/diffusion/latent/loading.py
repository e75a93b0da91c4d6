"""Latent generators by name: `sd15`, `sdxl-lightning`, the embedded `digits-sd`, and `latent:OWNER/NAME|FOLDER`.

Files come from the package, from a folder or from the hub's cache; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from minoritybench.diffusion.diffusers_files import (
    network_with,
    open_network,
    public_name,
    refuse_broken,
    refuse_misfit,
)
from minoritybench.diffusion.latent.files import PUBLISHED, SDXL, PipelineFiles, Published, locate, named
from minoritybench.diffusion.latent.model import LatentModel, Parts
from minoritybench.diffusion.latent.prompts import TextTower
from minoritybench.embedded.t2i.folders import pipeline_folder
from minoritybench.errors import BadInputError
from minoritybench.store import read_json

_FAMILY = "latent:"
EMBEDDED = "digits-sd"
_DTYPES = ("float32", "bfloat16", "float16", "float64")


def load_latent(name: str, *, device: str = "cpu", dtype: str = "float32", compile: bool = False) -> LatentModel:
    """A text-to-image generator. Errors: absent files exit 4, all of them in one line; pipelines of another kind, and
    weights that do not fit their configuration, exit 2."""
    if dtype not in _DTYPES:
        raise BadInputError(f"--dtype {dtype}: {name} runs in {', '.join(_DTYPES)}")
    if dtype == "float16" and torch.device(device).type == "cpu":
        raise BadInputError(f"--dtype float16: {name} runs in it on a GPU only; take bfloat16 on a CPU")
    if compile and name == EMBEDDED:
        raise BadInputError(f"--compile: {name} is too small to gain, and its images are promised bit for bit")
    published, files = _published(name), find_files(name)
    parts = _open(name, files, published)
    model = LatentModel(public_name(name, _FAMILY), parts, files.digest(), device=device, dtype=dtype)
    if compile:
        model.compile()
    return model


def find_files(name: str) -> PipelineFiles:
    """The files of a text-to-image generator, not opened; those that are absent exit 4, all in one line."""
    return locate(name, _published(name))


def _published(name: str) -> Published:
    if name in PUBLISHED:
        return PUBLISHED[name]
    if name != EMBEDDED:
        return named(name, name.removeprefix(_FAMILY))
    return named(name, str(pipeline_folder()))


def _open(name: str, files: PipelineFiles, published: Published) -> Parts:
    kind = "UNet2DConditionModel"
    if published.unet is None:
        unet = open_network(name, kind, files.unet)
    else:
        unet = network_with(name, kind, files.unet_config, files.unet)
    classes = ("CLIPTextModel", "CLIPTextModelWithProjection")
    towers = tuple(
        _tower(name, classes[number], weights, tokenizer)
        for number, (weights, tokenizer) in enumerate(zip(files.text, files.tokenizers, strict=True))
    )
    # SDXL's pipeline class takes zeros unless its index says otherwise
    zeros = published.kind == SDXL and bool(read_json(files.index).get("force_zeros_for_empty_prompt", True))
    return Parts(unet, open_network(name, "AutoencoderKL", files.vae), towers, read_json(files.scheduler), zeros)


def _tower(name: str, kind: str, weights: Path, tokenizer: Path) -> TextTower:
    """A text encoder with its own weights and nothing else: transformers, too, fills what a file lacks."""
    import transformers

    refuse_broken(name, weights)
    with torch.random.fork_rng(devices=[]), _quiet():
        encoder, facts = getattr(transformers, kind).from_pretrained(
            weights.parent,
            local_files_only=True,
            use_safetensors=weights.suffix == ".safetensors",
            variant="fp16" if ".fp16." in weights.name else None,
            dtype=torch.float32,
            output_loading_info=True,
        )
    refuse_misfit(name, weights, facts)
    return TextTower(transformers.CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True), encoder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bar and the report that transformers prints; a misfit is told in our own line."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging  # untyped

    bar, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
