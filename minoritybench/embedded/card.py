"""``card.json`` and ``CARD.md``: what was trained, how, and what was measured."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

from minoritybench.embedded.card_figures import ENCODERS, measure
from minoritybench.embedded.card_notes import NOTES
from minoritybench.microbatch import torch_threads
from minoritybench.store import pretty_json, write_text

Facts = dict[str, dict[str, Any]]

DATA = (
    "scikit-learn's load_digits (UCI Optical Recognition of Handwritten Digits, test part), 1,500 training and"
    " 297 test images of 8x8 pixels; only the training split is trained on"
)
ENCODER_COLUMNS = {
    "kNN rho train": "knn_spearman_train",
    "kNN rho test": "knn_spearman_test",
    "ink rho": "ink_spearman",
    "contrast rho": "contrast_spearman",
    "score mean": "score_mean_train",
    "sd": "score_sd_train",
    "blank": "score_blank",
    "noise": "score_noise",
    "effective rank": "effective_rank",
    "probe": "probe_test_accuracy",
}


def write_card(folder: Path, run_seed: int, training: Facts) -> None:
    """Measure the models in ``folder`` and write both cards there.

    ``training`` holds, by file stem, what the training run recorded: schedule, seed, size, digest.
    """
    with torch_threads(1):
        figures = measure(folder)
    card = {
        "run_seed": run_seed,
        "data": DATA,
        "environment": {"python": platform.python_version(), "torch": torch.__version__},
        "models": {name: {**facts, "figures": figures.get(name, {})} for name, facts in training.items()},
    }
    write_text(folder / "card.json", pretty_json(card))
    write_text(folder / "CARD.md", render(card))


def render(card: dict[str, Any]) -> str:
    """The human card as markdown."""
    models: Facts = card["models"]
    environment = card["environment"]
    return "\n".join(
        [
            "# Embedded digits models",
            "",
            f"Written by `python -m minoritybench.embedded.train --seed {card['run_seed']}`"
            f" (Python {environment['python']}, PyTorch {environment['torch']}, one CPU thread).",
            f"Data: {card['data']}.",
            "",
            "## Files",
            "",
            *files_table(models),
            "",
            "## Encoders",
            "",
            *encoder_table(models),
            "",
            *encoder_legend(models),
            "",
            "## Generator and classifier",
            "",
            *generator_lines(models),
            "",
            NOTES,
        ]
    )


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A markdown table as lines."""
    return [f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows]]


def files_table(models: Facts) -> list[str]:
    """One line a weight file."""
    header = ["file", "parameters", "steps", "batch", "peak lr", "CPU s", "bytes", "seed", "sha256"]
    keys = ["parameters", "steps", "batch_size", "lr", "cpu_seconds", "bytes", "seed", "sha256"]
    rows = [[name, *(str(facts.get(key, "")) for key in keys)] for name, facts in models.items()]
    return table(header, rows)


def encoder_table(models: Facts) -> list[str]:
    """One line an encoder."""
    rows = [[name, *(f"{models[name]['figures'][key]:.2f}" for key in ENCODER_COLUMNS.values())] for name in ENCODERS]
    return table(["encoder", *ENCODER_COLUMNS], rows)


def encoder_legend(models: Facts) -> list[str]:
    """What the columns mean, and the agreement of the two seeds."""
    seeds = models["digits-jepa"]["figures"]["other_seed"]
    return [
        "kNN rho: Spearman of the JEPA-SCORE (deflated) with minus the mean pixel distance to the 5 nearest training"
        " images; above zero the score behaves like a density. ink, contrast: Spearman with the mean and the standard"
        " deviation of the pixels. blank, noise: the score of an empty image and the mean over 100 uniform noise"
        " images. effective rank: exponential entropy of the embeddings' singular values. probe: test accuracy of"
        " logistic regression.",
        "",
        f"Two seeds (digits-jepa, digits-jepa-b) on the training images: Spearman {seeds['spearman']:.3f};"
        f" {seeds['lowest_quarter_overlap']:.0%} of the lowest quarter in common.",
    ]


def generator_lines(models: Facts) -> list[str]:
    """The DDPM's and the classifier's figures."""
    f = models["digits-ddpm"]["figures"]
    accuracy = models["digits-classifier"]["figures"]["test_accuracy"]

    def row(label: str, key: str, reference: str, digits: int = 2) -> list[str]:
        return [label, *(f"{value:.{digits}f}" for value in f[key]), reference]

    return [
        "1,000 ancestral samples a seed, 50 steps, x0 clipped; FD in the classifier's 64 features against all 1,500"
        " training images; distances in pixels of the [-1, 1] space.",
        "",
        *table(
            ["", *(f"seed {seed}" for seed in f["sampling_seeds"]), "reference"],
            [
                row("FD, unconditional", "fd_unconditional", f"test split {f['fd_test_split']:.2f} (n = 297)"),
                row("FD, conditional (equal classes)", "fd_conditional", ""),
                row("classifier agrees with the label", "conditional_agreement", "", 3),
                row(
                    "mean distance to the nearest training image",
                    "nearest_train_distance",
                    f"test split {f['nearest_train_distance_test_split']:.2f}",
                ),
                row("mean distance to the nearest of 297 training images", "nearest_of_297_train", ""),
                row("mean distance to the nearest of 297 test images", "nearest_of_297_test", ""),
                row("share closer than half the test split's mean", "share_closer_than_half_the_test_mean", "", 3),
                row("pixel standard deviation", "pixel_sd", f"train {f['pixel_sd_train']:.2f}", 3),
            ],
        ),
        "",
        f"Classifier test accuracy: {accuracy:.4f}.",
    ]
