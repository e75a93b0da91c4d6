"""MG, minority guidance: ascend the probability that a classifier of noised images gives to the most minor level.

Card
    Paper      Um et al. 2024, Don't Play Favorites: Minority Guidance for Diffusion Models, arXiv:2301.12334 (ICLR)
    Prepared   the minority score of every training image, quantile labels from it, and a classifier of them that takes
               x_t and the original timestep: `minoritybench prepare mg`
    Defaults   w 3.5 and 100 levels, five noises an image, LPIPS with VGG, AdamW 3e-4 falling linearly to 0, weight
               decay 0.05, batch 256, 60,000 iterations, 5 % held out (the authors' LSUN command); the most minor level
    Digits     five levels, L2 distance, no crops or flips, shorter training, a larger share held out, w chosen on
               seed 100: 1,500 images make 300 a level and 30 within a class; at 100 levels it would be 15 and 1 or 2
    Cost       a step adds one classifier forward and one backward; once, five denoiser forwards an image and training
    Paper and  perturb: the paper 0.9 of the chain (index 90 of 100), the released script index 60. LSUN's schedule is
    code       linear, where index 60 leaves abar 0.024; on a cosine schedule that is index 90 (0.020).
               within_class: the paper scores, bins and classifies within class; the released code has no such path.
               Presets `paper` and `official-code` set these two; the default is the paper's. A network without an
               unconditional mode (ADM's ImageNet models) is told the class for the score either way, and without
               `within_class` only the bins are global.
    Departures the released labelling gives the top sample level 0 for some L (49, 98, 103, 107, ...), where (1/L) L < 1
               in floating point; here it gets L - 1. The released sampler hands one label to both networks; here the
               level is a second label beside the class, under either preset.
    Choices    nobody published w, L and the classifier for CelebA and ImageNet; the guidance has no normalisation, and
               w multiplies the variance, so that the drift hardly depends on the number of steps. Of our own: ADM's
               encoder as the classifier, at 32 px one of our own size; gradients of its training clipped at norm 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from minoritybench.diffusion.model import requires_labels
from minoritybench.diffusion.step import Method, StepContext, predict
from minoritybench.diffusion.text import require_pixels
from minoritybench.errors import BadInputError
from minoritybench.prepare import RECIPE_FIELDS, Bench, Kit, Prepared, TrainingRecipe, classifier_gradient
from minoritybench.records import BenchmarkSpec

BIBTEX = """\
@inproceedings{um2024dont,
  title = {Don't Play Favorites: Minority Guidance for Diffusion Models},
  author = {Um, Soobin and Lee, Suhyeon and Ye, Jong Chul},
  booktitle = {International Conference on Learning Representations},
  year = {2024},
  eprint = {2301.12334}
}
"""

LEVEL_STREAM = "mg-level"
PERTURB_STREAM = "mg-perturb"
PERTURB_CHAIN = "100"
_PREPARATION = ("levels", "perturb", "n_iter", "distance", *RECIPE_FIELDS)


@dataclass(frozen=True)
class Mg(TrainingRecipe, Method):
    """`w` guidance scale; `levels` L of the minority label; the level aimed at is drawn for each image from
    `lowest_level` up, negative ones counted from L (-1: always the most minor); `perturb` index of the 100-step chain
    to which images are noised for their score, `n_iter` times; `distance` to what the model restores; `within_class`
    whether class-conditional sampling uses levels within each class. The rest is the classifier's training."""

    w: float = 3.5
    levels: int = 100
    lowest_level: int = -1
    perturb: int = 90
    n_iter: int = 5
    distance: Literal["lpips-vgg", "lpips-alex", "l2"] = "lpips-vgg"
    within_class: bool = True

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"perturb": 90, "within_class": True},
        "official-code": {"perturb": 60, "within_class": False},
    }
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {"levels": _PREPARATION, "levels-by-class": _PREPARATION}

    def __post_init__(self) -> None:
        self.check("mg")
        if self.levels < 2 or not -self.levels <= self.lowest_level < self.levels:
            raise BadInputError(
                f"mg: levels must be at least 2 and lowest_level lie in [-levels, levels), not {self.levels},"
                f" {self.lowest_level}"
            )
        if not 0 <= self.perturb < int(PERTURB_CHAIN) or self.n_iter < 1:
            raise BadInputError(
                f"mg: perturb must lie in [0, {PERTURB_CHAIN}) and n_iter be at least 1, not {self.perturb},"
                f" {self.n_iter}"
            )

    def check_use(self, benchmark: BenchmarkSpec, class_conditional: bool) -> None:
        """The classifier is one of noised images."""
        require_pixels("mg", benchmark)

    def needs(self, class_conditional: bool) -> frozenset[str]:
        """The classifier of levels, or of levels within a class."""
        return frozenset({f"prepared:{self._part(class_conditional)}"})

    def correct(self, step: StepContext) -> Tensor | None:
        """`w Sigma grad log p(level | x_t, timestep[, class])`, the same as a shift of the mean."""
        if self.w == 0:
            return None
        classifier = step.resources[f"prepared:{self._part(step.classes is not None)}"]
        level = self._target(step)

        gradient = classifier_gradient(
            step, lambda x_t: log_probability(classifier.logits(x_t, step.timestep, step.classes), level)
        )
        return self.w * step.variance * gradient

    def objective(self, step: StepContext) -> dict[str, Tensor]:
        """Of the denoised estimate: log-probability `(B,)` of the level aimed at, as of a clean image, and minority
        score, with which the levels rise."""
        classifier = step.resources[f"prepared:{self._part(step.classes is not None)}"]
        bench = Bench(step.model, str(step.x_t.device))
        labels = step.classes if self.within_class or requires_labels(bench.model) else None
        with torch.no_grad():
            logits = classifier.logits(step.x0_hat, 0, step.classes)
            return {
                "log p(level)": log_probability(logits, self._target(step)),
                "minority score": self._score(bench, step.x0_hat.clamp(-1.0, 1.0), labels, step.streams.indices),
            }

    def prepare(self, part: str, kit: Kit) -> Prepared:
        """Score every image, bin the scores to equal counts, train the classifier of the bins."""
        by_class = part == "levels-by-class"
        kit.distance(self.distance)
        images = kit.images(labelled=by_class or kit.requires_labels)
        classes = images.labels if by_class else None
        score = self.score_within_class if by_class else self.minority_score
        scores = kit.per_image(score, images)
        targets, thresholds = quantile_labels_within(scores, classes, self.levels)
        kit.facts["minority_score"] = {"mean": float(scores.mean()), "sd": float(scores.std())}
        classifier = kit.train(images, targets, self.levels, self, labels=classes)
        return kit.finished(classifier, thresholds=torch.from_numpy(thresholds))

    def minority_score(self, bench: Bench, x0: Tensor, labels: Tensor | None, indices: Sequence[int]) -> Tensor:
        """Mean distance `(B,)` between clean images and what the model restores of them once noised, told the class
        only where it cannot do without."""
        return self._score(bench, x0, labels if requires_labels(bench.model) else None, indices)

    def score_within_class(self, bench: Bench, x0: Tensor, labels: Tensor | None, indices: Sequence[int]) -> Tensor:
        """The same with the model told the class."""
        return self._score(bench, x0, labels, indices)

    def _score(self, bench: Bench, x0: Tensor, labels: Tensor | None, indices: Sequence[int]) -> Tensor:
        schedule, distance = bench.schedule(PERTURB_CHAIN), bench.distance(self.distance)
        alpha_bar = float(schedule.alphas_cumprod[self.perturb])
        found = []
        for draw in range(self.n_iter):
            noise = bench.streams(indices).normal(tuple(x0.shape[1:]), PERTURB_STREAM, draw).to(x0)
            x_t = alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * noise
            restored = predict(bench.model, schedule, x_t, self.perturb, labels, bench.passes).x0_hat
            found.append(distance(x0, restored.clamp(-1.0, 1.0)))
        return torch.stack(found).mean(dim=0)

    def _target(self, step: StepContext) -> Tensor:
        """The level each image aims at, int64 `(B,)`, the same at every step."""
        lowest = self.lowest_level % self.levels
        return (lowest + step.streams.integers(self.levels - lowest, LEVEL_STREAM)).to(step.x_t.device)

    def _part(self, class_conditional: bool) -> str:
        return "levels-by-class" if class_conditional and self.within_class else "levels"


def log_probability(logits: Tensor, level: Tensor) -> Tensor:
    """Log-probability `(B,)` of one output each: logits `(B, L)`, level int64 `(B,)`."""
    return F.log_softmax(logits, dim=1).gather(1, level[:, None])[:, 0]


def quantile_labels(scores: NDArray[np.float64], levels: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels `0 .. levels - 1` of equal counts, rising with the score, and the thresholds `(levels,)`: the smallest j
    with `score <= quantile((j + 1) / levels)`. A score beyond the last threshold gets the last label."""
    thresholds = np.quantile(scores, (np.arange(levels) + 1) / levels)
    labels = np.searchsorted(thresholds, scores, side="left")
    return np.minimum(labels, levels - 1).astype(np.int64), thresholds


def quantile_labels_within(
    scores: NDArray[np.float64], classes: NDArray[np.int64] | None, levels: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Quantile labels within each class, and thresholds `(classes, levels)`; one row where there are no classes."""
    members = np.zeros(len(scores), np.int64) if classes is None else classes
    labels = np.empty(len(scores), np.int64)
    thresholds = []
    for number in range(int(members.max()) + 1):
        inside = members == number
        if int(inside.sum()) < levels:
            raise BadInputError(
                f"mg: {levels} levels need as many images, there are {int(inside.sum())}"
                + ("" if classes is None else f" of class {number}")
                + "; choose fewer: --set levels=..."
            )
        labels[inside], own = quantile_labels(scores[inside], levels)
        thresholds.append(own)
    return labels, np.stack(thresholds)
