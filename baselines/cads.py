"""CADS: anneal the prompt's embedding from noise to itself while sampling.

Card
    Paper      Sadat et al. 2024, CADS: Unleashing the Diversity of Diffusion Models through Condition-Annealed
               Sampling, arXiv:2310.17347 (ICLR 2024)
    Defaults   tau1 0.6, tau2 0.9, s 0.25, psi 1, time t/T, SDXL's pooled embedding annealed as well (the paper's
               text-to-image setting as independent ports give it; the paper's own code is not published)
    Cost       none beyond the sampler's
    Presets    `paper` changes nothing; there is no code to follow
    Departures mean and standard deviation are those of one sample's embedding, in float32 at least, never of a batch;
               the unconditional branch stays clean and the noise is new at every step, where popular ports have
               neither; SDXL's pooled vector has its own statistics (the paper's models have one embedding); an
               embedding noised to a constant (s = 0 above tau2) becomes its mean, where the formula divides by zero
    Notes      s is absolute: it belongs to the scale of the encoder's embeddings. A chain of four steps at t/T = 0.999,
               0.749, 0.499, 0.249 has gamma 0, 0.503, 1, 1: its first step sees noise alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from minoritybench.diffusion.step import Method, StepContext
from minoritybench.diffusion.text import Condition, TextCondition, require_prompts
from minoritybench.errors import BadInputError
from minoritybench.records import BenchmarkSpec

BIBTEX = """\
@inproceedings{sadat2024cads,
  title = {{CADS}: Unleashing the Diversity of Diffusion Models through Condition-Annealed Sampling},
  author = {Sadat, Seyedmorteza and Buhmann, Jakob and Bradley, Derek and Hilliges, Otmar and Weber, Romann M.},
  booktitle = {International Conference on Learning Representations},
  year = {2024},
  eprint = {2310.17347}
}
"""

NOISE_STREAM = "cads"


@dataclass(frozen=True)
class Cads(Method):
    """The prompt is itself up to time `tau1` and noise alone from `tau2` on (1 is pure noise); `s` scale of the noise;
    `psi` share of the embedding that is rescaled to its own mean and deviation; `pooled` anneals SDXL's pooled
    embedding, too; `time` is t/T (`timestep`) or 1 - i/N (`step`); `dynamic_cfg` multiplies the guidance scale by
    gamma."""

    tau1: float = 0.6
    tau2: float = 0.9
    s: float = 0.25
    psi: float = 1.0
    pooled: bool = True
    time: Literal["timestep", "step"] = "timestep"
    dynamic_cfg: bool = False

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}}
    unpublished: ClassVar[Mapping[str, str]] = {"official-code": "no code is published"}

    def __post_init__(self) -> None:
        if not 0.0 <= self.tau1 <= self.tau2 or self.s < 0 or not 0.0 <= self.psi <= 1.0:
            raise BadInputError(
                "cads: 0 <= tau1 <= tau2, s >= 0 and psi in [0, 1] are needed, not"
                f" {self.tau1}, {self.tau2}, {self.s}, {self.psi}"
            )

    def check_use(self, benchmark: BenchmarkSpec, class_conditional: bool) -> None:
        """Only prompts have embeddings to anneal."""
        require_prompts("cads", benchmark)

    def condition(self, step: StepContext, labels: Condition) -> Condition:
        """The annealed prompts; the unconditional branch as it was."""
        gamma = self.gamma(self._time(step))
        if gamma == 1.0 or not isinstance(labels, TextCondition):
            return labels
        pooled = labels.pooled
        if pooled is not None and self.pooled:
            pooled = self.annealed(pooled, gamma, step.rng(tuple(pooled.shape[1:]), f"{NOISE_STREAM}-pooled"))
        scale = labels.guidance_scale
        return replace(
            labels,
            embeds=self.annealed(labels.embeds, gamma, step.rng(tuple(labels.embeds.shape[1:]), NOISE_STREAM)),
            pooled=pooled,
            guidance_scale=gamma * scale if self.dynamic_cfg and labels.unconditional is not None else scale,
        )

    def gamma(self, time: float) -> float:
        """Share of the prompt in the variance of the embedding, falling from 1 at tau1 to 0 at tau2."""
        if time <= self.tau1:
            return 1.0
        return 0.0 if time >= self.tau2 else (self.tau2 - time) / (self.tau2 - self.tau1)

    def annealed(self, y: Tensor, gamma: float, noise: Tensor) -> Tensor:
        """`sqrt(gamma) y + s sqrt(1 - gamma) n`, `(B, ...)`, rescaled to each sample's own mean and deviation."""
        clean = y.to(torch.promote_types(y.dtype, torch.float32))
        noised = gamma**0.5 * clean + self.s * (1 - gamma) ** 0.5 * noise.to(clean)
        (mean, deviation), (new_mean, new_deviation) = _moments(clean), _moments(noised)
        unit = torch.where(new_deviation > 0, (noised - new_mean) / new_deviation, 0.0)
        return (self.psi * (unit * deviation + mean) + (1 - self.psi) * noised).to(y.dtype)

    def _time(self, step: StepContext) -> float:
        if self.time == "timestep":
            return step.timestep / step.model.train_steps
        return (step.index + 1) / step.schedule.steps


def _moments(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each sample, `(B, 1, ...)`."""
    axes = tuple(range(1, y.ndim))
    return y.mean(dim=axes, keepdim=True), y.std(dim=axes, keepdim=True)
