"""Low-density guidance: away from where the data are dense, and back towards what looks real.

Card
    Paper      Sehwag et al. 2022, Generating High Fidelity Data from Low-density Regions using Diffusion Models,
               arXiv:2203.17260 (CVPR); without classes the variant of arXiv:2605.24631, Appendix C
    Prepared   `minoritybench prepare sehwag`. With classes: `hardness`, a classifier of noised images with a Gaussian a
               class in its features, and `fidelity`, a classifier of noised real against noised generated images.
               Without: `ood`, a classifier of noised data against noised images of another dataset
    Defaults   alpha 0.5 and beta 0.5 times the variance, each gradient divided by its per-sample maximum; Gaussian
               hardness; scale 1 without classes, no normalisation; the classifiers are trained as MG's
    Digits     out-of-distribution images are 8x8 grey patches of two photographs; shorter training without crops or
               flips; `scale` chosen on seed 100
    Cost       a step adds a classifier forward and backward for each gradient: two with classes, one without
    Code       none was published, so that `preset=official-code` is refused. Presets: `paper` the original, with the
               contrastive form; `appendix-c` the variant without classes, whatever the labels. The default takes the
               original where images are sampled by class.
    Departures -log p(in) is formed from logits: taken from the probability it has no slope once that rounds to 1.
    Choices    Neither paper states alpha, beta, temperature, scale, the networks or their training, nor whether the
               variance multiplies the shift (`schedule`); the formulas of the original are taken from descriptions of
               it. Of our own: class Gaussians belong to one of `bands` noise levels, for features of x_t are compared
               with them, and their covariances are shrunk by 5 % towards a multiple of the identity;
               `covariance=shared` (one a band) is for datasets of many classes. The classifiers
               are ADM's encoder; at 32 px, where none was published, one of our own size; gradients of their training
               are clipped at norm 1.
    Notes      -log p(in) has no lower bound and drives samples to noise at a large scale; its slope is all but gone
               where the classifier is sure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from minoritybench.diffusion.step import Method, StepContext
from minoritybench.diffusion.text import require_pixels
from minoritybench.errors import BadInputError
from minoritybench.guidance.normalise import l2_normalised, max_normalised
from minoritybench.prepare import RECIPE_FIELDS, Kit, Prepared, TrainingRecipe, classifier_gradient
from minoritybench.records import BenchmarkSpec

BIBTEX = """\
@inproceedings{sehwag2022generating,
  title = {Generating High Fidelity Data from Low-density Regions using Diffusion Models},
  author = {Sehwag, Vikash and Hazirbas, Caner and Gordo, Albert and Ozgenel, Firat and Canton, Cristian},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2022},
  eprint = {2203.17260}
}
"""

_NORMALISE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "max": max_normalised,
    "l2": l2_normalised,
    "none": lambda gradient: gradient,
}
_SHRINKAGE = 0.05
_MOST_GENERATED = 50_000
_MOST_MATRICES = 2048
"""2 GiB at 512 features."""
_BATCH = 64


@dataclass(frozen=True)
class Sehwag(TrainingRecipe, Method):
    """`variant` `conditional` the original, `ood` away from the data, `auto` the former where images are sampled by
    class; `alpha` weighs the low-density gradient, `beta` the fidelity gradient; `hardness` is the former's form,
    `temperature` that of the contrastive one; `normalise` scales either gradient; `scale` weighs the `ood` gradient;
    `schedule` scales the shift by the transition variance or not at all; `negatives` is the dataset (a name or a
    folder) out of distribution; `generated` how many samples of the generator the fidelity classifier sees (0: as many
    as real images, 50,000 at most); `bands` of noise have class Gaussians of their own, each fitted to `fitted` noised
    images; `images` of the dataset, and of the negatives, are drawn at random where there are more (0: all are taken);
    `covariance` belongs to a class or is shared by all; `embedding` is a classifier `trained` here or ADM's published
    one of ImageNet. The rest is the classifiers' training."""

    variant: Literal["auto", "conditional", "ood"] = "auto"
    alpha: float = 0.5
    beta: float = 0.5
    hardness: Literal["gaussian", "contrastive"] = "gaussian"
    temperature: float = 1.0
    normalise: Literal["max", "l2", "none"] = "max"
    scale: float = 1.0
    schedule: Literal["variance", "constant"] = "variance"
    negatives: str = "imagenet"
    generated: int = 0
    bands: int = 10
    fitted: int = 50_000
    images: int = 200_000
    covariance: Literal["class", "shared"] = "class"
    embedding: Literal["trained", "adm-classifier"] = "trained"

    later: ClassVar[frozenset[str]] = frozenset({"images", "covariance", "embedding"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"variant": "conditional", "hardness": "contrastive"},
        "appendix-c": {"variant": "ood"},
    }
    unpublished: ClassVar[Mapping[str, str]] = {"official-code": "no code was published"}
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "hardness": ("bands", "fitted", "images", "covariance", "embedding", *RECIPE_FIELDS),
        "fidelity": ("generated", "images", *RECIPE_FIELDS),
        "ood": ("negatives", "images", *RECIPE_FIELDS),
    }

    def __post_init__(self) -> None:
        self.check("sehwag")
        if not self.temperature > 0 or self.bands < 1 or self.fitted < 1 or min(self.generated, self.images) < 0:
            raise BadInputError(
                "sehwag: temperature must be positive, bands and fitted at least 1, generated and images at least 0,"
                f" not {self.temperature}, {self.bands}, {self.fitted}, {self.generated}, {self.images}"
            )

    def check_use(self, benchmark: BenchmarkSpec, class_conditional: bool) -> None:
        """Refuse prompts, the original without labels, and the data as what they are told from."""
        require_pixels("sehwag", benchmark)
        if self.variant == "conditional" and not class_conditional:
            raise BadInputError("sehwag: variant=conditional takes class labels: add --class-conditional")
        if not self._by_class(class_conditional) and self.negatives == benchmark.dataset:
            raise BadInputError(
                f"sehwag: negatives={self.negatives} is the dataset of {benchmark.name}, which it is to be told from:"
                " choose another, --set negatives=..."
            )

    def needs(self, class_conditional: bool) -> frozenset[str]:
        """The classifiers whose gradient has a weight."""
        if not self._by_class(class_conditional):
            return frozenset({"prepared:ood"})
        weights = {"prepared:hardness": self.alpha, "prepared:fidelity": self.beta}
        return frozenset(name for name, weight in weights.items() if weight != 0)

    def correct(self, step: StepContext) -> Tensor | None:
        """`Sigma (alpha g_low + beta g_real)`, or `scale Sigma grad -log p(in | x_t, timestep)`."""
        shift = self._shift_by_class(step) if self._by_class(step.classes is not None) else self._shift_out(step)
        return None if shift is None else (step.variance if self.schedule == "variance" else 1.0) * shift

    def objective(self, step: StepContext) -> dict[str, Tensor]:
        """Of the denoised estimate, as of a clean image: what each gradient ascends, `(B,)`."""
        found = {}
        with torch.no_grad():
            if not self._by_class(step.classes is not None):
                logits = step.resources["prepared:ood"].logits(step.x0_hat, 0, None)
                return {"-log p(in)": -log_second(logits)}
            if self.alpha != 0:
                part = step.resources["prepared:hardness"]
                found[f"hardness ({self.hardness})"] = self.low_density(part, step, step.x0_hat, 0)
            if self.beta != 0:
                logits = step.resources["prepared:fidelity"].logits(step.x0_hat, 0, None)
                found["log p(real)"] = log_second(logits)
        return found

    def prepare(self, part: str, kit: Kit) -> Prepared:
        """Train the classifier of a part."""
        if part == "hardness":
            return self._prepare_hardness(kit)
        return self._prepare_fidelity(kit) if part == "fidelity" else self._prepare_ood(kit)

    def _shift_by_class(self, step: StepContext) -> Tensor | None:
        shift: Tensor | None = None
        if self.alpha != 0:
            part = step.resources["prepared:hardness"]
            gradient = classifier_gradient(step, lambda x_t: self.low_density(part, step, x_t, step.timestep))
            shift = self.alpha * _NORMALISE[self.normalise](gradient)
        if self.beta != 0:
            real = step.resources["prepared:fidelity"]
            gradient = classifier_gradient(step, lambda x_t: log_second(real.logits(x_t, step.timestep, None)))
            fidelity = self.beta * _NORMALISE[self.normalise](gradient)
            shift = fidelity if shift is None else shift + fidelity
        return shift

    def _shift_out(self, step: StepContext) -> Tensor | None:
        if self.scale == 0:
            return None
        part = step.resources["prepared:ood"]
        return self.scale * classifier_gradient(step, lambda x_t: -log_second(part.logits(x_t, step.timestep, None)))

    def low_density(self, part: Prepared, step: StepContext, x_t: Tensor, timestep: int) -> Tensor:
        """What the low-density gradient ascends, `(B,)`: the hardness score of x_t under its class's Gaussian, or the
        contrastive loss of its features against the class means."""
        labels = step.classes
        assert labels is not None
        features = part.features(x_t, timestep, None)
        band = timestep * self.bands // step.model.train_steps
        mean = part.tensors["mean"][band]
        if self.hardness == "contrastive":
            similarity = F.normalize(features, dim=1) @ F.normalize(mean, dim=1).T
            return F.cross_entropy(similarity / self.temperature, labels, reduction="none")
        whitening = part.tensors["whitening"][band]
        return gaussian_hardness(features - mean[labels], whitening[labels % len(whitening)])  # one, or one a class

    def _prepare_hardness(self, kit: Kit) -> Prepared:
        """A noise-conditional classifier of the classes, and their Gaussians in its features, a band of noise each."""
        if self.covariance == "class" and kit.classes * self.bands > _MOST_MATRICES:
            raise BadInputError(
                f"sehwag: covariances of {kit.classes} classes in {self.bands} bands are too many to keep (at most"
                f" {_MOST_MATRICES}): --set covariance=shared"
            )
        published = kit.published_classifier() if self.embedding == "adm-classifier" else None
        images = kit.images(labelled=True, most=self.images)
        assert images.labels is not None
        for band in range(self.bands):  # refused before the training, not after it
            drawn, _ = kit.feature_draws(images, band, self.bands, self.fitted)
            check_classes(images.labels[drawn], kit.classes)
        classifier = published or kit.train(images, images.labels, kit.classes, self)
        means, whitenings = [], []
        for band in range(self.bands):
            features, classes = kit.noised_features(classifier, images, band, self.bands, self.fitted)
            fit = class_gaussians if self.covariance == "class" else shared_gaussian
            mean, whitening = fit(features, classes, kit.classes)
            means.append(mean)
            whitenings.append(whitening)
        return kit.finished(classifier, mean=torch.stack(means), whitening=torch.stack(whitenings))

    def _prepare_fidelity(self, kit: Kit) -> Prepared:
        """A noise-conditional classifier of generated (0) against real (1) images."""
        real = kit.images(most=self.images)
        generated = kit.generated(self.generated or min(len(real), _MOST_GENERATED), class_conditional=True)
        targets = np.repeat(np.array([0, 1]), [len(generated), len(real)])
        return kit.finished(kit.train(generated.joined(real), targets, 2, self))

    def _prepare_ood(self, kit: Kit) -> Prepared:
        """A noise-conditional classifier of other images (0) against the data (1)."""
        outside = kit.other_images(self.negatives, most=self.images)
        inside = kit.images(most=self.images)
        targets = np.repeat(np.array([0, 1]), [len(outside), len(inside)])
        return kit.finished(kit.train(outside.joined(inside), targets, 2, self))

    def _by_class(self, class_conditional: bool) -> bool:
        return self.variant == "conditional" or (self.variant == "auto" and class_conditional)


def check_classes(classes: NDArray[np.int64], count: int) -> None:
    """Refuse draws among which one of `count` classes is absent: it would have no Gaussian."""
    absent = np.flatnonzero(np.bincount(classes, minlength=count)[:count] == 0)
    if len(absent):
        others = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise BadInputError(
            f"sehwag: no image of class {absent[0]}{others} is among the {len(classes)} drawn for a band's Gaussians:"
            " draw more, --set fitted=..., or prepare from images of every class"
        )


def log_second(logits: Tensor) -> Tensor:
    """Log-probability `(B,)` of the second of two outputs; it keeps its slope however sure the classifier is."""
    return F.logsigmoid(logits[:, 1] - logits[:, 0])


def gaussian_hardness(centred: Tensor, whitening: Tensor) -> Tensor:
    """`0.5 [(f - mu)' C^-1 (f - mu) + ln det C + d ln 2 pi]` `(B,)`: features less their class mean `(B, d)` and the
    lower triangular W with `W C W' = I` `(B, d, d)`. Large: rare within its class."""
    distance = torch.einsum("bij,bj->bi", whitening, centred).square().sum(dim=1)
    log_determinant = -2 * whitening.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    return 0.5 * (distance + log_determinant + centred.shape[1] * math.log(2 * math.pi))


def class_gaussians(features: Tensor, classes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean `(count, d)` and whitening matrix `(count, d, d)` of each class's features `(N, d)`, in float64."""
    means, whitenings = [], []
    features = features.double()
    for number in range(count):
        own = features[classes == number]
        mean = own.mean(dim=0)
        means.append(mean)
        whitenings.append(whitening_of(own - mean))
    return torch.stack(means), torch.stack(whitenings)


def shared_gaussian(features: Tensor, classes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean `(count, d)` of each class's features `(N, d)` and the one whitening matrix `(1, d, d)` of what is left of
    all of them, in float64: linear discriminant analysis, where there are too few images a class for its covariance."""
    features = features.double()
    mean = torch.stack([features[classes == number].mean(dim=0) for number in range(count)])
    return mean, whitening_of(features - mean[classes])[None]


def whitening_of(centred: Tensor) -> Tensor:
    """Lower triangular W with `W C W' = I` `(d, d)`, C the covariance of centred features `(N, d)` float64, shrunk so
    that it is never singular."""
    covariance = centred.T @ centred / len(centred)
    identity = torch.eye(centred.shape[1], dtype=torch.float64)
    spread = (covariance.diagonal().mean()).clamp_min(1e-12)
    shrunk = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * spread * identity
    factor = torch.linalg.cholesky(shrunk)
    return torch.linalg.solve_triangular(factor, identity, upper=False)
