"""`card.json` and `CARD.md` of the text-to-image models: what was trained, how, and what was measured."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

from minoritybench.embedded.captions import ATTRIBUTES
from minoritybench.embedded.card import ENCODER_COLUMNS, Facts, table
from minoritybench.embedded.t2i.card_notes import NOTES
from minoritybench.embedded.t2i.figures import ENCODERS, measure_all
from minoritybench.store import pretty_json, read_json, sha256_file, write_text

CARDS = ("card.json", "CARD.md")
DATA = (
    "scikit-learn's load_digits at 16x16 (each 8-bit image through Pillow's bicubic), 1,500 training and 297 test"
    " images; only the training split is trained on"
)


def write_card(folder: Path, run_seed: int, training: Facts, *, measured: bool) -> None:
    """Write both cards of a folder. `training`: what was trained now, added to what `card.json` holds of the rest.

    Without `measured` the figures, which would be those of older files, are left out, and CARD.md with them.
    """
    path = folder / "card.json"
    before: Facts = read_json(path)["models"] if path.is_file() else {}
    card = {
        "run_seed": run_seed,
        "data": DATA,
        "environment": {"python": platform.python_version(), "torch": torch.__version__},
        "models": before | training,
        "figures": measure_all(folder) if measured else {},
        "files": shipped_files(folder),
    }
    write_text(path, pretty_json(card))
    if measured:
        write_text(folder / "CARD.md", render(card))
    else:
        (folder / "CARD.md").unlink(missing_ok=True)


def shipped_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and digest of every file of the three folders, by path."""
    paths = sorted(path for part in ("weights", "pipeline", "digits-clip") for path in (folder / part).rglob("*.*"))
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in paths
        if path.is_file()
    }


def render(card: dict[str, Any]) -> str:
    """The human card as markdown."""
    figures, environment = card["figures"], card["environment"]
    return "\n".join(
        [
            "# Embedded text-to-image models",
            "",
            f"Written by `python -m minoritybench.embedded.t2i.train --seed {card['run_seed']}`"
            f" (Python {environment['python']}, PyTorch {environment['torch']}, one CPU thread).",
            f"Data: {card['data']}.",
            "",
            "## Training",
            "",
            *training_table(card["models"]),
            "",
            "## Files",
            "",
            *files_table(card["files"]),
            "",
            "## Plain samples",
            "",
            *sample_lines(figures["unet"]),
            "",
            "## Encoders, classifier, CLIP and autoencoder",
            "",
            *encoder_table(figures),
            "",
            *judge_lines(figures),
            "",
            NOTES,
        ]
    )


def training_table(models: Facts) -> list[str]:
    """One line a model."""
    keys = ["parameters", "steps", "batch_size", "lr", "cpu_seconds", "seed"]
    total = sum(facts["cpu_seconds"] for facts in models.values())
    rows = [[name, *(str(facts[key]) for key in keys)] for name, facts in models.items()]
    rows.append(["all", "", "", "", "", f"{total:.1f}", ""])
    return table(["model", "parameters", "steps", "batch", "peak lr", "CPU s", "seed"], rows)


def files_table(files: Facts) -> list[str]:
    """One line a file, and their sum."""
    rows = [[name, str(facts["bytes"]), facts["sha256"]] for name, facts in files.items()]
    rows.append(["all", str(sum(facts["bytes"] for facts in files.values())), ""])
    return table(["file", "bytes", "sha256"], rows)


def sample_lines(figures: dict[str, Any]) -> list[str]:
    """What the pipeline draws at several guidance scales."""
    header = ["guidance scale", "agreement", "worst digit", "confidence", *(f"{name} true" for name in ATTRIBUTES)]
    header += ["FD", "nearest training image", "closer than half", "pixel sd", "CPU s"]
    rows = []
    for row in figures["by_guidance_scale"]:
        rows.append(
            [
                f"{row['guidance_scale']:g}",
                f"{row['agreement']:.3f}",
                f"{min(row['agreement_by_digit']):.2f}",
                f"{row['confidence']:.3f}",
                *(f"{row['named_attributes_true'][name]:.2f}" for name in ATTRIBUTES),
                f"{row['fd']:.2f}",
                f"{row['nearest_train_distance']:.2f}",
                f"{row['share_closer_than_half_the_test_mean']:.3f}",
                f"{row['pixel_sd']:.3f}",
                f"{row['cpu_seconds']:.0f}",
            ]
        )
    return [
        f"The benchmark's {figures['n']} prompts through diffusers' `StableDiffusionPipeline`, DDIM, {figures['steps']}"
        " steps, image i from seed i. agreement: the classifier, trained apart, sees the prompted digit. ink, width,"
        " slant true: of the images whose prompt names the attribute, the share that lies in the named third of its"
        " digit (chance 0.33). FD: in the classifier's 64 features, against the 1,500 training images; the test split"
        f" has {figures['fd_test_split']:.2f} (n = 297). nearest training image: mean pixel distance in [-1, 1]; the"
        f" test split has {figures['nearest_train_distance_test_split']:.2f}; closer than half: share of samples"
        f" closer than half of that. pixel sd of the training images: {figures['pixel_sd_train']:.3f}.",
        "",
        *table(header, rows),
    ]


def encoder_table(figures: Facts) -> list[str]:
    """One line an encoder."""
    rows = [[name, *(f"{figures[name][key]:.2f}" for key in ENCODER_COLUMNS.values())] for name in ENCODERS]
    return table(["encoder", *ENCODER_COLUMNS], rows)


def judge_lines(figures: Facts) -> list[str]:
    """The agreement of the two seeds, and the figures of classifier, CLIP and autoencoder."""
    seeds, clip, vae = figures["digits16-jepa"]["other_seed"], figures["digits-clip"], figures["vae"]
    attributes = ", ".join(f"{name} {clip['attribute_accuracy'][name]:.2f}" for name in ATTRIBUTES)
    return [
        "The columns are those of the 8 px card (`minoritybench/embedded/weights/CARD.md`). Two seeds (digits16-jepa,"
        f" digits16-jepa-b) on the training images: Spearman {seeds['spearman']:.3f};"
        f" {seeds['lowest_quarter_overlap']:.0%} of the lowest quarter in common.",
        "",
        f"- **digits16-classifier**: test accuracy {figures['digits16-classifier']['test_accuracy']:.4f}.",
        f"- **digits-clip**, test images against all 270 captions: the nearest caption names the right digit"
        f" {clip['digit_accuracy']:.3f}, the right level of {attributes} (chance 0.33); it is the very caption"
        f" {clip['caption_top_1']:.3f}, among the nearest five {clip['caption_top_5']:.3f}. Mean cosine"
        f" {clip['mean_cosine_true']:.3f} with the true caption, {clip['mean_cosine_all']:.3f} with all.",
        f"- **vae**: squared error {vae['test_squared_error']:.5f} on test images (pixel variance"
        f" {vae['test_pixel_variance']:.3f}); scaling_factor {vae['scaling_factor']}.",
    ]
