"""Classifiers of noised images `(x_t, timestep)`: the networks, by the architecture that a size calls for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minoritybench.embedded.models import PIXELS, FilmBlock, sinusoidal
from minoritybench.errors import BadInputError

_BLAS_WIDTH = 16


class GuideNetwork(Protocol):
    """What an architecture builds: an `nn.Module` with these two methods. Timesteps are original ones, int64 `(B,)`."""

    def features(self, x_t: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        """Penultimate activations `(B, d)`."""
        ...

    def __call__(self, x_t: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        """Logits `(B, outputs)`."""
        ...


@dataclass(frozen=True)
class GuideConfig:
    """Everything needed to build a classifier again: `state_shape` of one `x_t`, the number of `outputs`, and of the
    `classes` whose label it is given beside the image (None: it is given none)."""

    architecture: str
    state_shape: tuple[int, ...]
    outputs: int
    classes: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For metadata."""
        return asdict(self)


class GuideClassifier(nn.Module):
    """A classifier of noised images, given the original training timestep."""

    def __init__(self, config: GuideConfig) -> None:
        super().__init__()
        if config.architecture not in ARCHITECTURES:
            raise BadInputError(f"unknown architecture {config.architecture!r}; known: {', '.join(ARCHITECTURES)}")
        self.config = config
        self.network: GuideNetwork = ARCHITECTURES[config.architecture].build(config)

    def features(self, x_t: Tensor, timestep: Tensor, labels: Tensor | None = None) -> Tensor:
        """Penultimate activations `(B, d)` of `x_t` `(B, C, H, W)` at original timesteps int64 `(B,)`; `labels` int64
        `(B,)` reach only a classifier that is conditioned on classes."""
        features: Tensor = self.network.features(x_t, timestep, self._labels(labels))
        return features

    def forward(self, x_t: Tensor, timestep: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits `(B, outputs)`; arguments as above."""
        logits: Tensor = self.network(x_t, timestep, self._labels(labels))
        return logits

    def _labels(self, labels: Tensor | None) -> Tensor | None:
        if self.config.classes is None:
            return None
        if labels is None:
            raise BadInputError("this classifier is conditioned on class labels: sample with --class-conditional")
        return labels


class FilmMlp(nn.Module):
    """For 8x8 greyscale: two residual MLP blocks modulated by time and class, 32 penultimate features.

    As in the embedded models every width is a multiple of 16, the output's included (what exceeds `outputs` is cut
    off), and there is no BatchNorm, so that a row never depends on its neighbours in a fixed micro-batch.
    """

    width = 96
    embedding = 64
    depth = 2
    dim = 32

    def __init__(self, config: GuideConfig) -> None:
        super().__init__()
        self._outputs = config.outputs
        self.time = nn.Sequential(nn.Linear(64, self.embedding), nn.SiLU(), nn.Linear(self.embedding, self.embedding))
        self.label = None if config.classes is None else nn.Embedding(config.classes, self.embedding)
        self.inp = nn.Linear(PIXELS, self.width)
        self.blocks = nn.ModuleList(FilmBlock(self.width, self.embedding) for _ in range(self.depth))
        self.norm = nn.LayerNorm(self.width)
        self.penultimate = nn.Linear(self.width, self.dim)
        self.out = nn.Linear(self.dim, -(-config.outputs // _BLAS_WIDTH) * _BLAS_WIDTH)

    def features(self, x_t: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        """`(B, 32)`."""
        embedded = self.time(sinusoidal(timestep))
        if self.label is not None and labels is not None:
            embedded = embedded + self.label(labels)
        embedded = F.silu(embedded)
        h = self.inp(x_t.flatten(1))
        for block in self.blocks:
            h = block(h, embedded)
        out: Tensor = F.silu(self.penultimate(self.norm(h)))
        return out

    def forward(self, x_t: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        """`(B, outputs)`."""
        logits: Tensor = self.out(self.features(x_t, timestep, labels))
        return logits[:, : self._outputs]


@dataclass(frozen=True)
class Architecture:
    """How a network is built, and the precision in which artefacts keep its weights."""

    build: Callable[[GuideConfig], Any]
    stored: torch.dtype


def _adm_encoder(config: GuideConfig) -> nn.Module:
    from minoritybench.prepare.adm import AdmGuide

    return AdmGuide(config)


ARCHITECTURES: dict[str, Architecture] = {
    "film-mlp": Architecture(FilmMlp, torch.float16),
    "adm-encoder": Architecture(_adm_encoder, torch.float32),
}
_ADM_SIDES = (32, 64, 128, 256)


def architecture_for(state_shape: tuple[int, ...]) -> str:
    """The architecture for states of a shape; one that none fits exits 2."""
    if state_shape == (1, 8, 8):
        return "film-mlp"
    if len(state_shape) == 3 and state_shape[1] == state_shape[2] and state_shape[1] in _ADM_SIDES:
        return "adm-encoder"
    raise BadInputError(
        f"no classifier architecture for states of shape {state_shape}; known: (1, 8, 8) and squares of"
        f" {', '.join(map(str, _ADM_SIDES))} px"
    )
