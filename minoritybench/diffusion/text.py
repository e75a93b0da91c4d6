"""Text conditioning: what a text-to-image network is conditioned on, and what such a backend offers beyond a pixel one.

A `TextCondition` stands where class labels stand in pixel space: the loop hands it on, and a method's `condition` hook
may return another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from torch import Tensor

from minoritybench.diffusion.model import DiffusionModel
from minoritybench.diffusion.schedule import Schedule
from minoritybench.errors import BadInputError
from minoritybench.records import BenchmarkSpec, TextSpec


@dataclass(frozen=True)
class TextCondition:
    """Encoded prompts, a row an image.

    `prompts` the texts; `embeds` `(B, L, D)` hidden states for cross-attention; `pooled` `(B, P)` and `time_ids`
    `(B, 6)` are SDXL's added conditions, None elsewhere. `unconditional` is the empty prompt's, None where the network
    runs without classifier-free guidance; with it the predicted noise is `eps_u + guidance_scale * (eps_c - eps_u)`.
    """

    prompts: tuple[str, ...]
    embeds: Tensor
    pooled: Tensor | None = None
    time_ids: Tensor | None = None
    unconditional: TextCondition | None = None
    guidance_scale: float = 1.0

    @property
    def branches(self) -> int:
        """Network evaluations that one prediction takes."""
        return 1 if self.unconditional is None else 2

    def alone(self) -> TextCondition:
        """The prompts without classifier-free guidance."""
        return replace(self, unconditional=None, guidance_scale=1.0)


Condition = Tensor | TextCondition | None
"""What a network is conditioned on: class labels int64 `(B,)`, encoded prompts, or nothing."""


class PromptOptimisable(Protocol):
    """What a backend offers beside for tokens to be optimised behind prompts."""

    def embed_tokens(
        self, prompts: Sequence[str], learned: Sequence[Tensor], *, pooled: Literal["eos", "official"] = "eos"
    ) -> TextCondition:
        """Prompts with a token of their own behind them, without an unconditional branch; differentiable in `learned`,
        one tensor `(B, width)` a text encoder. `pooled` says where SDXL's pooled embedding is read: at the end of the
        text, or at the token as the published code does."""
        ...

    def token_start(self, word: str) -> list[Tensor]:
        """Vectors `(width,)`, one a text encoder, to begin at: those of a word, or the vocabulary's `mean`."""
        ...


def require_prompts(method: str, benchmark: BenchmarkSpec) -> None:
    """Refuse a method that works on prompts where there are none."""
    if benchmark.text is None:
        raise BadInputError(f"{method} works on the prompts of text-to-image; benchmark {benchmark.name!r} has none")


def require_pixels(method: str, benchmark: BenchmarkSpec) -> None:
    """Refuse a method that needs classifiers of a pixel generator's states where states are latents."""
    if benchmark.text is not None:
        raise BadInputError(f"{method} needs classifiers of noised images, and {benchmark.name!r} is text-to-image")


class TextModel(DiffusionModel, Protocol):
    """A latent text-to-image backend: a `DiffusionModel` whose `predict` takes a `TextCondition` for labels and whose
    `decode` maps latents to images through its decoder."""

    def encode_prompts(self, prompts: Sequence[str], guidance_scale: float) -> TextCondition:
        """Encode prompts, with the empty prompt beside them where the scale is neither 0 nor 1; no graph."""
        ...

    def noise_schedule(self, steps: int, text: TextSpec) -> Schedule:
        """The respaced chain that the settings ask for, from the model's own training schedule."""
        ...
