"""The figures of the model card, measured on the weight files of one training run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from minoritybench.diffusion.schedule import make_schedule
from minoritybench.embedded.data import DigitsSplit, load_split
from minoritybench.embedded.models import DigitsClassifier, DigitsDenoiser
from minoritybench.embedded.recipes_common import to_network
from minoritybench.embedded.weights import load_file_into
from minoritybench.metrics import frechet_distance
from minoritybench.scoring.validity import knn_spearman, rank_correlation

ENCODERS = ("digits-jepa", "digits-jepa-b", "digits-ijepa", "digits-vicreg")
LOW_FRACTION = 0.25
SAMPLES = 1000
SAMPLE_SEEDS = (0, 1, 2)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Digits:
    """One split as network input ``(N, 1, H, H)`` in ``[-1, 1]`` with labels ``(N,)``."""

    x: Tensor
    labels: NDArray[np.int64]

    @classmethod
    def load(cls, split: Literal["train", "test"]) -> Digits:
        """Load one split at 8x8."""
        return cls.of(load_split(split))

    @classmethod
    def of(cls, digits: DigitsSplit) -> Digits:
        """A loaded split of either size."""
        return cls(to_network(torch.from_numpy(digits.images)), digits.labels)

    @property
    def rgb(self) -> Tensor:
        """``(N, 3, H, H)`` in ``[0, 1]``."""
        return ((self.x + 1) / 2).expand(-1, 3, -1, -1)


def measure(folder: Path) -> dict[str, dict[str, Any]]:
    """All figures of the models in ``folder``, by model name."""
    train, test = Digits.load("train"), Digits.load("test")
    figures: dict[str, dict[str, Any]] = {}
    scores = {name: encoder_scores(name, folder, train, test) for name in ENCODERS}
    for name in ENCODERS:
        figures[name] = encoder_figures(name, folder, scores[name], train, test)
    for name, other in (("digits-jepa", "digits-jepa-b"), ("digits-jepa-b", "digits-jepa")):
        figures[name]["other_seed"] = agreement(scores[name]["train"], scores[other]["train"])
    classifier = load_file_into("digits-classifier", folder / "digits-classifier.safetensors")
    denoiser = load_file_into("digits-ddpm", folder / "digits-ddpm.safetensors")
    assert isinstance(classifier, DigitsClassifier)
    assert isinstance(denoiser, DigitsDenoiser)
    figures["digits-classifier"] = {"test_accuracy": accuracy(classifier, test)}
    figures["digits-ddpm"] = ddpm_figures(denoiser, classifier, train, test)
    return figures


def encoder_scores(name: str, folder: Path, train: Digits, test: Digits) -> dict[str, Floats]:
    """Deflated JEPA-SCORE of both splits, of a blank image and of 100 images of uniform noise."""
    from minoritybench import jepa_score, load_encoder

    encoder = load_encoder(name, weights=folder / f"{name}.safetensors")
    side = train.x.shape[-1]
    noise = torch.rand(100, 1, side, side, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1)
    images = {"train": train.rgb, "test": test.rgb, "blank": torch.zeros(1, 3, side, side), "noise": noise}
    return {key: jepa_score(encoder, value, mode="deflated").numpy() for key, value in images.items()}


def encoder_figures(name: str, folder: Path, scores: dict[str, Floats], train: Digits, test: Digits) -> dict[str, Any]:
    """Whether the score behaves like a density, and what the embeddings are like otherwise."""
    net = load_file_into(name, folder / f"{name}.safetensors")
    ink, contrast = train.x.mean(dim=(1, 2, 3)).numpy(), train.x.std(dim=(1, 2, 3)).numpy()
    lowest = np.argsort(scores["train"])[: len(train.labels) // 10]
    return {
        "knn_spearman_train": knn_spearman(scores["train"], pixels(train)),
        "knn_spearman_test": knn_spearman(scores["test"], pixels(test), reference=pixels(train)),
        "ink_spearman": rank_correlation(scores["train"], ink),
        "contrast_spearman": rank_correlation(scores["train"], contrast),
        "score_mean_train": float(scores["train"].mean()),
        "score_sd_train": float(scores["train"].std()),
        "score_mean_test": float(scores["test"].mean()),
        "score_blank": float(scores["blank"][0]),
        "score_noise": float(scores["noise"].mean()),
        "effective_rank": effective_rank(net, train.x),
        "probe_test_accuracy": probe_accuracy(net, train, test),
        "lowest_tenth_by_class": np.bincount(train.labels[lowest], minlength=10).tolist(),
    }


def pixels(digits: Digits) -> NDArray[np.float32]:
    """Images as vectors ``(N, H * H)``."""
    values: NDArray[np.float32] = digits.x.flatten(1).numpy()
    return values


def agreement(a: Floats, b: Floats) -> dict[str, float]:
    """Spearman's rho of two score vectors and how much of their lowest quarters they share."""
    n = int(len(a) * LOW_FRACTION)
    shared = set(np.argsort(a)[:n].tolist()) & set(np.argsort(b)[:n].tolist())
    return {"spearman": rank_correlation(a, b), "lowest_quarter_overlap": len(shared) / n}


@torch.no_grad()
def effective_rank(net: nn.Module, x: Tensor) -> float:
    """Exponential of the entropy of the centred embeddings' normalised singular values.

    Reference: Roy and Vetterli 2007, "The effective rank".
    """
    z = net(x)
    p = torch.linalg.svdvals((z - z.mean(dim=0)).double())
    p = p / p.sum()
    return float(torch.exp(-torch.xlogy(p, p).sum()))


def probe_accuracy(net: nn.Module, train: Digits, test: Digits) -> float:
    """Test accuracy of logistic regression on standardised embeddings."""
    from sklearn.linear_model import LogisticRegression

    with torch.no_grad():
        fit, held_out = net(train.x).numpy(), net(test.x).numpy()
    mean, sd = fit.mean(axis=0), fit.std(axis=0) + 1e-8
    probe = LogisticRegression(max_iter=2000).fit((fit - mean) / sd, train.labels)
    return float(probe.score((held_out - mean) / sd, test.labels))


@torch.no_grad()
def accuracy(classifier: DigitsClassifier, digits: Digits) -> float:
    """Share of correctly classified images."""
    return float((classifier(digits.x).argmax(dim=1).numpy() == digits.labels).mean())


@torch.no_grad()
def sample(net: DigitsDenoiser, labels: Tensor | None, seed: int, steps: int = 50) -> Tensor:
    """1,000 ancestral samples ``(1000, 1, 8, 8)`` with the estimate of ``x0`` clipped to ``[-1, 1]``.

    Written apart from the sampling loop on purpose: a generator is judged before, and without, the code that it serves.

    Reference: Ho, Jain, Abbeel 2020, equation 7. Without the clipping the first cosine steps divide by 5e-5.
    """
    table = make_schedule("cosine", str(steps))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SAMPLES, 1, 8, 8, generator=generator)
    for index in reversed(range(table.steps)):
        timestep = torch.full((SAMPLES,), table.timesteps[index])
        abar = float(table.alphas_cumprod[index])
        x0 = ((x - (1 - abar) ** 0.5 * net(x, timestep, labels)) / abar**0.5).clamp(-1, 1)
        x = float(table.x0_coefficient[index]) * x0 + float(table.x_t_coefficient[index]) * x
        if index > 0:
            noise = torch.randn(x.shape, generator=generator)
            x = x + float(table.posterior_variance[index]) ** 0.5 * noise
    return x


def ddpm_figures(net: DigitsDenoiser, classifier: DigitsClassifier, train: Digits, test: Digits) -> dict[str, Any]:
    """Quality of 1,000 samples a seed, unconditional and with the ten classes in equal shares."""
    labels = torch.arange(SAMPLES) % 10
    real = features(classifier, train.x)
    free = [sample(net, None, seed) for seed in SAMPLE_SEEDS]
    conditional = [sample(net, labels, seed) for seed in SAMPLE_SEEDS]
    nearest = [nearest_distance(x, train.x) for x in free]
    between = nearest_distance(test.x, train.x)

    def fd(x: Tensor) -> float:
        return float(frechet_distance(real=real, fake=features(classifier, x)).value)

    with torch.no_grad():
        hits = [float((classifier(x).argmax(dim=1) == labels).float().mean()) for x in conditional]
    return {
        "sampling_seeds": list(SAMPLE_SEEDS),
        "fd_unconditional": [fd(x) for x in free],
        "fd_conditional": [fd(x) for x in conditional],
        "fd_test_split": fd(test.x),
        "conditional_agreement": hits,
        "nearest_train_distance": [float(d.mean()) for d in nearest],
        "nearest_train_distance_test_split": float(between.mean()),
        "share_closer_than_half_the_test_mean": [float((d < between.mean() / 2).double().mean()) for d in nearest],
        # a copier would be closer to images it trained on than to as many that it has never seen
        "nearest_of_297_train": [float(nearest_distance(x, train.x[: len(test.x)]).mean()) for x in free],
        "nearest_of_297_test": [float(nearest_distance(x, test.x).mean()) for x in free],
        "pixel_sd": [float(x.std()) for x in free],
        "pixel_sd_train": float(train.x.std()),
    }


def features(classifier: DigitsClassifier, x: Tensor) -> NDArray[np.float32]:
    """Penultimate activations ``(N, 64)``."""
    with torch.no_grad():
        values: NDArray[np.float32] = classifier.features(x).numpy()
    return values


def nearest_distance(x: Tensor, reference: Tensor) -> Tensor:
    """Euclidean pixel distance to the nearest reference image, ``(N,)``."""
    return torch.cdist(x.flatten(1).double(), reference.flatten(1).double()).min(dim=1).values
