"""What the scores of an image and its prompt share: checked input, a value per image, their mean, files of a model.

Each scorer maps uint8 RGB images and their prompts to float64 values, one an image: keep these, for methods are
compared by prompt and noise (`minoritybench.metrics.uncertainty.paired_difference`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minoritybench.encoders.assets import WeightFile, locate, place_of
from minoritybench.errors import BadInputError, MissingAssetError
from minoritybench.metrics.value import MetricValue

Values = NDArray[np.float64]


class TextImageScorer(Protocol):
    """A loaded model: its `name`, the digest of its weights, the torch `threads` its values belong to (None: those of
    the process), and a value for each of `(B, 3, H, W)` uint8 images."""

    name: str
    weights_sha256: str | None
    threads: int | None

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Values:
        """Values `(B,)`, independent of what else is in the batch."""
        ...


def mean_score(scorer: TextImageScorer, fake: Tensor, prompts: Sequence[str]) -> MetricValue:
    """Mean over images; the model and its weights are part of the metric."""
    values = scorer(fake, prompts)
    params = {"n_fake": len(values), "model": scorer.name, "weights_sha256": scorer.weights_sha256}
    return MetricValue(float(values.mean()), params=params)


def check_pairs(images: Tensor, prompts: Sequence[str]) -> None:
    """Refuse anything but uint8 RGB images with a prompt each: floats would be scaled once more by the processors."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise BadInputError(f"images must be uint8 (B, 3, H, W), B >= 1, not {images.dtype} {tuple(images.shape)}")
    if len(images) != len(prompts):
        raise BadInputError(f"{len(images)} images need as many prompts, not {len(prompts)}")


def first_here(name: str, *files: WeightFile) -> Path:
    """The first of several files that would do, in our cache folder or the hub's; exit 4 where none is there."""
    for file in files:
        try:
            return locate(name, file)
        except MissingAssetError:
            continue
    wanted = files[0]
    raise MissingAssetError(
        f"{name}: {wanted.file} ({wanted.size}) is not here; fetch it with `hf download {wanted.repo} {wanted.file}`,"
        f" or put the file at {place_of(name, wanted)}"
    )


def folder_of(name: str, weights: Path, repo: str, beside: Sequence[str]) -> Path:
    """The folder of a model, which holds the small files `beside` its weights too; exit 4 where some are missing."""
    missing = [file for file in beside if not (weights.parent / file).is_file()]
    if missing:
        raise MissingAssetError(
            f"{name}: {', '.join(missing)} (some kB) are not beside {weights}; fetch them with "
            f"`hf download {repo} {' '.join(missing)}`, or put them there"
        )
    return weights.parent


def projected(output: Any) -> Tensor:
    """The embedding of `get_image_features` and its twin: a tensor up to transformers 4, `pooler_output` since."""
    return output if isinstance(output, Tensor) else output.pooler_output
