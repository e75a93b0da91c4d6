"""Rebuild the embedded text-to-image models: `python -m minoritybench.embedded.t2i.train [--seed 0] [--out DIR]`.

One CPU thread, under twenty minutes and a few more for the card's samples. The same seed on the same machine gives the
same bytes; elsewhere they differ in the last bits, which is why the weights are shipped.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minoritybench.embedded.captions import captions
from minoritybench.embedded.data import load_doubled_split
from minoritybench.embedded.recipes_common import (
    Progress,
    Schedule,
    TrainingData,
    as_training_data,
    derive_seed,
)
from minoritybench.embedded.recipes_ddpm import CLASSIFIER_SCHEDULE, train_classifier
from minoritybench.embedded.recipes_encoders import SPHERE_SCHEDULE, train_sphere
from minoritybench.embedded.recipes_ijepa import IJEPA_SCHEDULE, train_ijepa
from minoritybench.embedded.t2i.card import write_card
from minoritybench.embedded.t2i.folders import CLIP, PIPELINE, load_vae, write_clip, write_pipeline, write_vae
from minoritybench.embedded.t2i.recipes import (
    UNET_SCHEDULE,
    VAE_SCHEDULE,
    latents_of,
    train_text_to_latent,
    train_vae,
)
from minoritybench.embedded.t2i.recipes_clip import CLIP_SCHEDULE, train_clip
from minoritybench.embedded.t2i.tokenizer import caption_ids
from minoritybench.embedded.train import Recipe, train_one
from minoritybench.embedded.weights import t2i_dir
from minoritybench.microbatch import torch_threads

log = logging.getLogger(__name__)

ENCODER_RECIPES: dict[str, Recipe] = {
    "digits16-jepa": Recipe(train_sphere, SPHERE_SCHEDULE),
    "digits16-jepa-b": Recipe(train_sphere, SPHERE_SCHEDULE),
    "digits16-ijepa": Recipe(train_ijepa, IJEPA_SCHEDULE),
    "digits16-classifier": Recipe(train_classifier, CLASSIFIER_SCHEDULE),
}


@dataclass(frozen=True)
class Captioned:
    """What every stage trains on, and where the stages put their files."""

    out: Path

    @cached_property
    def data(self) -> TrainingData:
        """Images `(1500, 1, 16, 16)` and labels."""
        return as_training_data(load_doubled_split("train"))

    @cached_property
    def ids(self) -> Tensor:
        """Token ids of the captions `(1500, 16)`."""
        train = load_doubled_split("train")
        return torch.tensor(caption_ids(captions(train.images, train.labels)))


@dataclass(frozen=True)
class Stage:
    """`train(captioned, seed, schedule, progress)` trains one model, writes it and returns it."""

    train: Callable[[Captioned, int, Schedule, Progress], nn.Module]
    schedule: Schedule


def vae_stage(captioned: Captioned, seed: int, schedule: Schedule, progress: Progress) -> nn.Module:
    """The autoencoder."""
    vae: nn.Module = train_vae(captioned.data, seed, schedule, progress)
    write_vae(vae, captioned.out / PIPELINE)
    return vae


def unet_stage(captioned: Captioned, seed: int, schedule: Schedule, progress: Progress) -> nn.Module:
    """U-Net and text encoder, on the latents of the autoencoder as it was stored."""
    vae = load_vae(captioned.out / PIPELINE)
    empty = torch.tensor(caption_ids([""])[0])
    latents = latents_of(vae, captioned.data.x)
    trained = train_text_to_latent(latents, captioned.ids, empty, seed, schedule, progress)
    write_pipeline(trained.unet, trained.text_encoder, vae, captioned.out / PIPELINE)
    return trained


def clip_stage(captioned: Captioned, seed: int, schedule: Schedule, progress: Progress) -> nn.Module:
    """The CLIP that judges, apart from the pipeline's text encoder."""
    clip: nn.Module = train_clip(captioned.data, captioned.ids, seed, schedule, progress)
    write_clip(clip, captioned.out / CLIP)
    return clip


STAGES: dict[str, Stage] = {
    "vae": Stage(vae_stage, VAE_SCHEDULE),
    "unet": Stage(unet_stage, UNET_SCHEDULE),
    "digits-clip": Stage(clip_stage, CLIP_SCHEDULE),
}
NAMES = (*ENCODER_RECIPES, *STAGES)


def train_model(name: str, captioned: Captioned, seed: int) -> dict[str, Any]:
    """Train and write one model; returns what the card records about it."""
    if name in ENCODER_RECIPES:
        folder = captioned.out / "weights"
        folder.mkdir(parents=True, exist_ok=True)
        facts = train_one(name, ENCODER_RECIPES[name], captioned.data, seed, folder)
        return {key: value for key, value in facts.items() if key not in ("bytes", "sha256")}
    stage, model_seed = STAGES[name], derive_seed(seed, f"t2i:{name}")
    log.info("%s: training for %d steps", name, stage.schedule.steps)

    def progress(step: int, loss: float) -> None:
        log.info("%s: step %d/%d, loss %.4f", name, step, stage.schedule.steps, loss)

    start = time.process_time()
    module = stage.train(captioned, model_seed, stage.schedule, progress)
    return {
        "seed": model_seed,
        **asdict(stage.schedule),
        "cpu_seconds": round(time.process_time() - start, 1),
        "parameters": sum(p.numel() for p in module.parameters()),
    }


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m minoritybench.embedded.t2i.train",
        description="Train the embedded text-to-image models and write them, card.json and CARD.md.",
        epilog="example: python -m minoritybench.embedded.t2i.train --only digits-clip --out my-t2i",
    )
    parser.add_argument("--seed", type=int, default=0, help="run seed; every model derives its own (default 0)")
    parser.add_argument("--out", type=Path, default=t2i_dir(), help="folder (default: the package's)")
    parser.add_argument(
        "--only",
        choices=(*NAMES, "card"),
        action="append",
        help="only this model (unet needs vae in the folder); may be repeated; `card` measures without training",
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    chosen = arguments.only or [*NAMES, "card"]
    captioned = Captioned(arguments.out)
    with torch_threads(1):
        facts = {name: train_model(name, captioned, arguments.seed) for name in NAMES if name in chosen}
        log.info("writing the card")
        write_card(arguments.out, arguments.seed, facts, measured="card" in chosen)
    log.info("done: %s", arguments.out)


if __name__ == "__main__":
    main()
