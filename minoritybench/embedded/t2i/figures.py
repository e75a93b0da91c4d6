"""The figures of the text-to-image card, measured on the files of one training run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minoritybench.embedded.captions import (
    ATTRIBUTES,
    LOW_AND_HIGH,
    all_captions,
    captions,
    digit_of,
    measure,
    thresholds,
)
from minoritybench.embedded.card_figures import (
    Digits,
    accuracy,
    agreement,
    encoder_figures,
    encoder_scores,
    features,
    nearest_distance,
)
from minoritybench.embedded.data import DigitsSplit, load_doubled_split
from minoritybench.embedded.models import DigitsClassifier
from minoritybench.embedded.recipes_common import to_network
from minoritybench.embedded.t2i.folders import CLIP, PIPELINE, load_vae, open_pipeline
from minoritybench.embedded.t2i.prompts import draw_prompts
from minoritybench.embedded.weights import load_file_into
from minoritybench.metrics import frechet_distance

ENCODERS = ("digits16-jepa", "digits16-jepa-b", "digits16-ijepa")
GUIDANCE_SCALES = (1.0, 2.0, 4.0, 7.5)
STEPS = 50
CHUNK = 50


def measure_all(folder: Path) -> dict[str, Any]:
    """All figures of the models in a folder, by model name."""
    train, test = (Digits.of(load_doubled_split(split)) for split in ("train", "test"))
    scores = {name: encoder_scores(name, folder / "weights", train, test) for name in ENCODERS}
    figures: dict[str, Any] = {
        name: encoder_figures(name, folder / "weights", scores[name], train, test) for name in ENCODERS
    }
    figures["digits16-jepa"]["other_seed"] = agreement(
        scores["digits16-jepa"]["train"], scores["digits16-jepa-b"]["train"]
    )
    classifier = load_classifier(folder)
    figures["digits16-classifier"] = {"test_accuracy": accuracy(classifier, test)}
    figures["vae"] = vae_figures(folder, test)
    figures["digits-clip"] = clip_figures(folder, load_doubled_split("test"))
    figures["unet"] = pipeline_figures(folder, classifier, train, test)
    return figures


def load_classifier(folder: Path) -> DigitsClassifier:
    """The 16 px classifier of a training run."""
    classifier = load_file_into("digits16-classifier", folder / "weights" / "digits16-classifier.safetensors")
    assert isinstance(classifier, DigitsClassifier)
    return classifier


@torch.no_grad()
def vae_figures(folder: Path, test: Digits) -> dict[str, Any]:
    """Squared error of test images through the autoencoder, in `[-1, 1]`, beside the pixels' variance."""
    vae = load_vae(folder / PIPELINE)
    restored = vae.decode(vae.encode(test.x.expand(-1, 3, -1, -1)).latent_dist.mean).sample
    return {
        "scaling_factor": vae.config.scaling_factor,
        "test_squared_error": float((restored - test.x).square().mean()),
        "test_pixel_variance": float(test.x.var()),
    }


@torch.no_grad()
def clip_figures(folder: Path, test: DigitsSplit) -> dict[str, Any]:
    """Which of the 270 captions is nearest to each test image, and the cosines of true and of all other captions."""
    from transformers import CLIPModel, CLIPProcessor

    clip: Any = CLIPModel.from_pretrained(folder / CLIP, dtype=torch.float32, local_files_only=True)
    processor = CLIPProcessor.from_pretrained(folder / CLIP, local_files_only=True)
    candidates = all_captions()
    colour = [np.repeat(image[:, :, None], 3, axis=2) for image in test.images]
    inputs = processor(text=candidates, images=colour, return_tensors="pt", padding=True)
    cosine = (clip(**inputs).logits_per_image / clip.logit_scale.exp()).numpy()
    true = captions(test.images, test.labels)
    found = [candidates[index] for index in cosine.argmax(axis=1)]
    of_true = cosine[np.arange(len(true)), [candidates.index(text) for text in true]]
    ranks = (cosine > of_true[:, None]).sum(axis=1)
    return {
        "digit_accuracy": share(digit_of(a) == digit_of(b) for a, b in zip(found, true, strict=True)),
        "attribute_accuracy": {
            name: share(level_in(a, name) == level_in(b, name) for a, b in zip(found, true, strict=True))
            for name in ATTRIBUTES
        },
        "caption_top_1": float((ranks == 0).mean()),
        "caption_top_5": float((ranks < 5).mean()),
        "mean_cosine_true": float(of_true.mean()),
        "mean_cosine_all": float(cosine.mean()),
    }


def pipeline_figures(folder: Path, classifier: DigitsClassifier, train: Digits, test: Digits) -> dict[str, Any]:
    """Plain DDIM samples of the benchmark's prompts by diffusers' own pipeline, at several guidance scales."""
    pipeline = open_pipeline(folder / PIPELINE)
    prompts = draw_prompts()
    real = features(classifier, train.x)
    between = nearest_distance(test.x, train.x)
    rows = []
    for scale in GUIDANCE_SCALES:
        start = time.process_time()
        images = sample(pipeline, prompts, scale)
        seconds = time.process_time() - start
        x = to_network(torch.from_numpy(images))
        near = nearest_distance(x, train.x)
        rows.append(
            {
                "guidance_scale": scale,
                **digit_agreement(classifier, x, prompts),
                "named_attributes_true": named_attributes_true(images, prompts),
                "fd": float(frechet_distance(real=real, fake=features(classifier, x)).value),
                "nearest_train_distance": float(near.mean()),
                "share_closer_than_half_the_test_mean": float((near < between.mean() / 2).double().mean()),
                "pixel_sd": float(x.std()),
                "cpu_seconds": round(seconds, 1),
            }
        )
    return {
        "n": len(prompts),
        "steps": STEPS,
        "by_guidance_scale": rows,
        "fd_test_split": float(frechet_distance(real=real, fake=features(classifier, test.x)).value),
        "nearest_train_distance_test_split": float(between.mean()),
        "pixel_sd_train": float(train.x.std()),
    }


@torch.no_grad()
def sample(pipeline: Any, prompts: Sequence[str], guidance_scale: float, steps: int = STEPS) -> NDArray[np.uint8]:
    """Grey images `(N, 16, 16)`, the mean of the three channels in 8 bits; image i starts from seed i."""
    images = []
    for start in range(0, len(prompts), CHUNK):
        chunk = list(prompts[start : start + CHUNK])
        generators = [torch.Generator().manual_seed(start + i) for i in range(len(chunk))]
        out = pipeline(
            chunk,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            height=16,
            width=16,
            generator=generators,
            output_type="np",
        )
        images.append(out.images.mean(axis=3))
    return np.round(np.concatenate(images) * 255).astype(np.uint8)


@torch.no_grad()
def digit_agreement(classifier: DigitsClassifier, x: Tensor, prompts: Sequence[str]) -> dict[str, Any]:
    """How often an independent classifier sees the prompted digit, in all and by digit, and how sure it is."""
    asked = np.array([digit_of(prompt) for prompt in prompts])
    logits = classifier(x)
    right = logits.argmax(dim=1).numpy() == asked
    return {
        "agreement": float(right.mean()),
        "agreement_by_digit": [float(right[asked == digit].mean()) for digit in range(10)],
        "confidence": float(logits.softmax(dim=1).max(dim=1).values.mean()),
    }


def named_attributes_true(images: NDArray[np.uint8], prompts: Sequence[str]) -> dict[str, float]:
    """Of the images whose prompt names an attribute, the share that lies in the named third of its digit."""
    measured, limits = measure(images), thresholds()
    out = {}
    for name in ATTRIBUTES:
        asked = [(i, level_in(prompt, name), digit_of(prompt)) for i, prompt in enumerate(prompts)]
        out[name] = share(
            int(np.searchsorted(limits[name][digit], measured[name][i])) == level
            for i, level, digit in asked
            if level != 1
        )
    return out


def level_in(caption: str, attribute: str) -> int:
    """0, 1 or 2: the attribute is named low, not named, named high."""
    low, high = LOW_AND_HIGH[attribute]
    words = caption.split()
    return 0 if low in words else 2 if high in words else 1


def share(flags: Any) -> float:
    """Share of true values."""
    return float(np.mean([*flags]))
