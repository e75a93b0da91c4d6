"""JEPA guidance: descend the JEPA-SCORE of the denoised estimate while sampling.

Card
    Paper      Park and Um 2026, Beyond Generative Priors: Minority Sampling with JEPA-Guided Diffusion,
               arXiv:2605.24631, Algorithm 1
    Defaults   eta 2.0 times the transition variance, deferral tau 0.8, every N = 3 steps, (k, p, q) = (3, 2, 2)
               (the paper's CelebA 64 and ImageNet 256 row)
    Digits     eta 1.0, denoised estimate not clamped (most digit pixels saturate, and a clamp has no slope there)
    Cost       a guided step adds one denoiser backward, k + 1 encoder forwards, (q + 1)(k + p) VJPs and as many JVPs,
               and k second-order passes; q is `warm_q` on all guided steps but the first. 66 of 250 steps are guided
    Departures (preset `reference`) the gradient is divided by its per-sample maximum, which the paper does not mention
               and its code does; the range finder keeps all blocks of its rounds (block Lanczos) and begins with the
               singular vectors of the guided step before, not with new random probes: closer to the exact subspace for
               fewer products (docs/performance.md, "Guidance"); Jacobian products are exact where the code takes finite
               differences; the gradient is the dual form, equal to the paper's to rounding. Preset `paper` keeps
               Algorithm 1 to the letter: randomised SVD, raw gradient, no clamp of the denoised estimate.
    Code       Preset `official-code` is the published loop, which exists for latent SDXL only, in pixel space: the
               gradient moves x_t before the step and the network is evaluated again there; steps are gated by step
               number (67 of 250); Jacobian-vector products are finite differences of 1e-4; max-norm with 1e-8 added;
               eta times the schedule's posterior variance, at least 1e-8; singular values at least 1e-8. It departs
               from that code in float32 throughout (there the encoder runs in float16, where its differences are
               noise), in the gradient's dual form, in alpha_bar of the step itself (there a prepended 1.0 shifts the
               table by one step), and in probes drawn image by image. eta stays that of the paper's pixel models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from minoritybench.diffusion.schedule import Schedule
from minoritybench.diffusion.step import Method, StepContext, finite_rows
from minoritybench.diffusion.text import TextCondition
from minoritybench.errors import BadInputError
from minoritybench.guidance import RangeFinder, score_gradient
from minoritybench.guidance.gradient import GradientForm
from minoritybench.guidance.normalise import binary_scale, max_normalised
from minoritybench.scoring import exact_scores
from minoritybench.scoring.rsvd import Rsvd
from minoritybench.scoring.spectrum import LOG_FLOOR

BIBTEX = """\
@misc{park2026beyond,
  title = {Beyond Generative Priors: Minority Sampling with {JEPA}-Guided Diffusion},
  author = {Park, Sol and Um, Soobin},
  year = {2026},
  eprint = {2605.24631},
  archivePrefix = {arXiv}
}
"""

PROBE_STREAM = "jepa-probes"
_START = "jepa-start"
_VARIANCE_FLOOR = 1e-8
"""Least posterior variance of the published code, which is 0 at the last step."""


@dataclass(frozen=True)
class Jepa(Method):
    """Hyperparameters of Algorithm 1.

    `eta` step size, negative to seek dense regions; `tau` guidance starts below this fraction of the chain; `interval`
    guides every N-th step; `k` singular values, `p` vectors more in the search, `q` rounds of `J J^T` on random probes;
    `normalise` `max` divides each sample's gradient by its largest absolute entry, `none` keeps it raw; `schedule`
    scales eta by the transition variance, by the schedule's posterior variance or not at all; `clamp_x0` clamps the
    decoded estimate to [0, 1] before encoding.

    `warm_start` begins the search of every guided step but the first with the right singular vectors of the one before,
    and then does `warm_q` rounds. `range_finder` `lanczos` keeps every block of the rounds, `rsvd` the last. `gradient`
    `central-difference` needs no second derivative of the encoder. `products`, `placement` (`before`: x_t is moved and
    the network evaluated again), `gate`, `peak_floor` (added to the largest entry) and `log_floor` (least singular
    value) take the published code's choices, see the card.
    """

    eta: float = 2.0
    tau: float = 0.8
    interval: int = 3
    k: int = 3
    p: int = 2
    q: int = 2
    normalise: Literal["max", "none"] = "max"
    schedule: Literal["variance", "posterior-variance", "constant"] = "variance"
    clamp_x0: bool = True
    warm_start: bool = True
    warm_q: int = 1
    range_finder: Literal["lanczos", "rsvd"] = "lanczos"
    products: Literal["exact", "finite-difference"] = "exact"
    gradient: GradientForm = "dual"
    placement: Literal["after", "before"] = "after"
    gate: Literal["paper", "code"] = "paper"
    peak_floor: float = 0.0
    log_floor: float = LOG_FLOOR

    requires: ClassVar[frozenset[str]] = frozenset({"encoder"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"normalise": "none", "clamp_x0": False, "warm_start": False, "range_finder": "rsvd"},
        "official-code": {
            "schedule": "posterior-variance",
            "clamp_x0": True,
            "warm_start": False,
            "range_finder": "rsvd",
            "products": "finite-difference",
            "placement": "before",
            "gate": "code",
            "peak_floor": 1e-8,
            "log_floor": 1e-8,
        },
    }

    def __post_init__(self) -> None:
        if not 0.0 <= self.tau <= 1.0 or self.interval < 1:
            raise BadInputError(
                f"jepa: tau must lie in [0, 1] and interval be at least 1, not {self.tau}, {self.interval}"
            )
        if self.peak_floor < 0 or self.log_floor < 0:
            raise BadInputError(
                f"jepa: peak_floor and log_floor must not be negative: {self.peak_floor}, {self.log_floor}"
            )
        if self.products == "finite-difference" and self.range_finder != "rsvd":
            raise BadInputError("jepa: products finite-difference are the published range finder's: range_finder=rsvd")
        Rsvd(self.k, self.p, self.q)
        Rsvd(self.k, self.p, self.warm_q)

    def active(self, index: int, schedule: Schedule) -> bool:
        """Whether a step is guided. eta = 0 needs no guidance.

        `paper`: Algorithm 1, line 6, in its 1-based steps: t < tau T and t mod N = 0. `code`: by step number.
        """
        if self.gate == "paper":
            t = index + 1
            return self.eta != 0 and t < self.tau * schedule.steps and t % self.interval == 0
        number = schedule.steps - 1 - index
        return self.eta != 0 and number % self.interval == 0 and 1 - number / schedule.steps <= self.tau

    def guides(self, index: int, schedule: Schedule) -> bool:
        """Steps whose base pass the guidance shares."""
        return self.placement == "after" and self.active(index, schedule)

    def correct(self, step: StepContext) -> Tensor | None:
        """`-eta_t grad_{x_t} JS*(x0_hat)` on x_{t-1} (Algorithm 1, line 11)."""
        if not self.guides(step.index, step.schedule):
            return None
        return self._shift(step)

    def pre_step(self, step: StepContext) -> Tensor:
        """`x_t - eta_t grad_{x_t} JS*(x0_hat)` where the guidance comes before the step."""
        if self.placement == "after" or not self.active(step.index, step.schedule):
            return step.x_t
        with torch.enable_grad():
            seen = step.evaluated(step.labels)
        return step.x_t.detach() + self._shift(seen)

    def objective(self, step: StepContext) -> dict[str, Tensor]:
        """Minus the deflated JEPA-SCORE `(B,)` of the decoded estimate."""
        encoder = step.resources["encoder"]
        prepared = encoder.prepare(step.decode(step.x0_hat).clamp(0.0, 1.0))
        return {"-JEPA-SCORE (deflated)": -exact_scores(encoder, prepared).deflated}

    def _shift(self, step: StepContext) -> Tensor:
        """`-eta_t` times the gradient."""
        gradient = self._gradient(step)
        if self.normalise == "max":
            gradient = max_normalised(gradient, self.peak_floor)
        if self.schedule == "posterior-variance":
            posterior = float(step.schedule.posterior_variance[step.index])
            return -self.eta * max(posterior, _VARIANCE_FLOOR) * gradient
        return -self.eta * (step.variance if self.schedule == "variance" else 1.0) * gradient

    def _gradient(self, step: StepContext) -> Tensor:
        """Gradient of the top-k score with respect to x_t, through encoder, preprocessing and denoiser, in two stages:
        the encoder's graphs are gone when the denoiser's backward begins. Zero for an image where it is not finite."""
        device = step.x_t.device.type
        with torch.enable_grad():
            images = step.decode(step.x0_hat)
        with torch.autocast(device, enabled=False):  # the encoder keeps its own precision
            prepared, cotangent = self._score_gradient(step, images)
        usable = finite_rows(cotangent)
        cotangent = torch.where(usable, cotangent, 0.0)
        scale = binary_scale(cotangent)
        gradient = scale * step.gradient(prepared, cotangent / scale)
        if isinstance(step.labels, TextCondition):
            step.passes["decoder_backward"] += 1
        return step.finite(torch.where(usable, gradient, torch.nan))

    def _score_gradient(self, step: StepContext, images: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's input, with its graph, and the gradient of the top-k score with respect to it."""
        encoder = step.resources["encoder"]
        with torch.enable_grad():
            images = images.to(torch.promote_types(images.dtype, torch.float32))
            prepared = encoder.prepare(images.clamp(0.0, 1.0) if self.clamp_x0 else images)
        inputs = prepared[0].numel()
        known = step.memory.get(_START) if self.warm_start else None
        rsvd = Rsvd(self.k, self.p, self.q if known is None else self.warm_q).within(inputs)
        start = _start(step, known, rsvd.probes, prepared.detach().flatten(1))
        guidance = score_gradient(
            encoder,
            prepared.detach(),
            RangeFinder(rsvd, self.range_finder, self.products),
            start,
            form=self.gradient,
            floor=self.log_floor,
        )
        step.memory[_START] = guidance.found.right
        step.passes.update(guidance.passes)
        return prepared, guidance.gradient


def _start(step: StepContext, known: Tensor | None, probes: int, inputs: Tensor) -> Tensor:
    """Tangents `(B, probes, n)` that the search begins with: those `known` of the guided step before, random ones where
    there are none. A value lost in rounding leaves zeros, from which the search would find nothing but rounding."""
    if known is not None and (lost := ~(known.any(dim=2, keepdim=True) & finite_rows(known))).any():
        fresh = step.rng((known.shape[1], inputs.shape[1]), PROBE_STREAM).to(inputs)
        return torch.where(lost, fresh, known)
    return step.rng((probes, inputs.shape[1]), PROBE_STREAM).to(inputs) if known is None else known
