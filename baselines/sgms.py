"""SGMS: self-guided minority sampling, by the model's own reconstruction discrepancy.

Card
    Paper      Um and Ye 2024, arXiv:2407.11555 (ECCV 2024)
    Defaults   w 0.4 times the transition variance, every N = 5 steps, perturbation to 0.8 of the chain, one noise a
               step, LPIPS with AlexNet (the authors' CelebA 64 command); ImageNet 64: w 0.2, N = 2
    Digits     L2 distance, for LPIPS has no features at 8 px
    Cost       a guided step adds one denoiser forward for each noise, one denoiser backward and the distance, forward
               and backward; 50 of 250 steps are guided at the defaults
    Departures (preset `reference`) the base and the graph pass share one denoiser evaluation; a gradient that is zero
               everywhere stays zero, where the published code divides by it. Preset `official-code` is the same
               algorithm, for paper and code agree; the name exists so that scripts can ask for it.
    Latents    nobody published text-to-image code: a reconstruction. `distance=l2` acts on latents; a deterministic
               chain has no variance to scale w by (`schedule=constant`); `branch=conditional` measures the discrepancy
               without classifier-free guidance, which costs a denoiser forward more a guided step
    Notes      The estimate is not clipped before the distance, so that early in a cosine chain LPIPS sees values far
               outside [-1, 1]; `clip_for_guidance` clips it. Only the normalisation bounds the step, by w * variance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from minoritybench.diffusion.schedule import Schedule
from minoritybench.diffusion.step import Method, StepContext
from minoritybench.diffusion.text import Condition, TextCondition
from minoritybench.errors import BadInputError
from minoritybench.guidance.normalise import max_normalised
from minoritybench.records import BenchmarkSpec

BIBTEX = """\
@inproceedings{um2024self,
  title = {Self-Guided Generation of Minority Samples Using Diffusion Models},
  author = {Um, Soobin and Ye, Jong Chul},
  booktitle = {European Conference on Computer Vision},
  year = {2024},
  eprint = {2407.11555}
}
"""

NOISE_STREAM = "sgms-renoise"


@dataclass(frozen=True)
class Sgms(Method):
    """`w` step size; `interval` guides every N-th step; `perturb` fraction of the chain to which the estimate is noised
    again; `draws` noises averaged; `distance` between the estimate and its reconstruction; `schedule` scales w by the
    transition variance or not at all; guidance ends once the step index is at or below `stop` times the chain's length
    (-1: never); `clip_for_guidance` clips the estimate to [-1, 1] first.

    `level` `annealed` noises again to timestep T - t instead of to `perturb` of the chain. `branch` of a text-to-image
    network: both with classifier-free guidance (`guided`), or with the prompt alone. `placement` `before` moves x_t and
    the network is evaluated again there."""

    w: float = 0.4
    interval: int = 5
    perturb: float = 0.8
    draws: int = 1
    distance: Literal["lpips-alex", "lpips-vgg", "l2"] = "lpips-alex"
    schedule: Literal["variance", "constant"] = "variance"
    stop: float = -1.0
    clip_for_guidance: bool = False
    level: Literal["fixed", "annealed"] = "fixed"
    branch: Literal["guided", "conditional"] = "guided"
    placement: Literal["after", "before"] = "after"

    later: ClassVar[frozenset[str]] = frozenset({"level", "branch", "placement"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}, "official-code": {}}

    def __post_init__(self) -> None:
        if self.interval < 1 or self.draws < 1 or not 0.0 <= self.perturb < 1.0:
            raise BadInputError(
                "sgms: interval and draws must be at least 1 and perturb lie in [0, 1), not"
                f" {self.interval}, {self.draws}, {self.perturb}"
            )

    def check_use(self, benchmark: BenchmarkSpec, class_conditional: bool) -> None:
        """LPIPS compares images; the states of a text-to-image chain are latents."""
        if benchmark.text is not None and self.distance != "l2":
            raise BadInputError(
                f"sgms: {benchmark.name} samples latents, which {self.distance} cannot compare: --set distance=l2"
            )

    def needs(self, class_conditional: bool) -> frozenset[str]:
        """The distance."""
        return frozenset({f"distance:{self.distance}"})

    def active(self, index: int, schedule: Schedule) -> bool:
        """Every `interval`-th respaced index, 0 included. w = 0 needs no guidance."""
        return self.w != 0 and index > schedule.steps * self.stop and index % self.interval == 0

    def guides(self, index: int, schedule: Schedule) -> bool:
        """Steps whose base pass the guidance shares."""
        return self.placement == "after" and self.branch == "guided" and self.active(index, schedule)

    def correct(self, step: StepContext) -> Tensor | None:
        """`w Sigma g / max |g|`, g the gradient of the discrepancy: upwards, away from what the model restores."""
        if self.placement == "before" or not self.active(step.index, step.schedule):
            return None
        return self._shift(step if self.branch == "guided" else self._seen(step))

    def pre_step(self, step: StepContext) -> Tensor:
        """The same on x_t where the guidance comes before the step."""
        if self.placement == "after" or not self.active(step.index, step.schedule):
            return step.x_t
        return step.x_t.detach() + self._shift(self._seen(step))

    def objective(self, step: StepContext) -> dict[str, Tensor]:
        """Reconstruction discrepancy `(B,)`, which guidance raises."""
        with torch.no_grad():
            seen = step if self.branch == "guided" else step.evaluated(self._labels(step))
            return {"reconstruction discrepancy": self.discrepancy(seen, seen.x0_hat)}

    def discrepancy(self, step: StepContext, x0_hat: Tensor) -> Tensor:
        """Mean distance `(B,)` between an estimate and what the model makes of it once noised again; the
        reconstruction is held constant."""
        estimate = x0_hat.clamp(-1.0, 1.0) if self.clip_for_guidance else x0_hat
        distances = []
        for draw in range(self.draws):
            with torch.no_grad():
                restored = self._restored(step, estimate, draw)
            distances.append(self._distance(step)(estimate, restored))
        step.passes["distance"] += self.draws
        return torch.stack(distances).mean(dim=0)

    def _restored(self, step: StepContext, estimate: Tensor, draw: int) -> Tensor:
        if self.level == "fixed":
            index = int(step.schedule.steps * self.perturb)
            return step.denoise(step.noised(estimate, index, NOISE_STREAM, draw), index)
        x_s, alpha_bar = step.noised_at(estimate, step.mirrored_timestep, NOISE_STREAM, draw)
        return step.denoise_at(x_s, step.mirrored_timestep, alpha_bar, step.labels)

    def _shift(self, step: StepContext) -> Tensor:
        with torch.enable_grad():
            discrepancy = self.discrepancy(step, step.x0_hat)
        gradient = max_normalised(step.finite(step.gradient(discrepancy, torch.ones_like(discrepancy))))
        return self.w * (step.variance if self.schedule == "variance" else 1.0) * gradient

    def _seen(self, step: StepContext) -> StepContext:
        with torch.enable_grad():
            return step.evaluated(self._labels(step))

    def _labels(self, step: StepContext) -> Condition:
        labels = step.labels
        return labels.alone() if isinstance(labels, TextCondition) and self.branch == "conditional" else labels

    def _distance(self, step: StepContext) -> Any:
        return step.resources[f"distance:{self.distance}"]
