"""What a method sees of one sampling step, and the hooks through which it acts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from minoritybench.diffusion.model import DiffusionModel
from minoritybench.diffusion.schedule import Schedule
from minoritybench.diffusion.text import Condition, TextCondition
from minoritybench.errors import BadInputError, counted
from minoritybench.rng import ImageStreams

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """The network's view of `x_t`, each `(B, *state_shape)`.

    `eps` predicted noise; `x0_hat` the denoised estimate, never clipped; `log_variance` of the transition.
    """

    eps: Tensor
    x0_hat: Tensor
    log_variance: Tensor


@dataclass
class StepContext:
    """One step of the chain: respaced index `index`, counted down, at original training step `timestep`.

    `x0_hat` carries the graph back to `x_t` on steps that the method's `guides(index, schedule)` names (the base pass
    is then shared with the guidance); `x_t`, `eps`, `mean` and `variance` never do, except `x_t` itself on those
    steps, which is the leaf to differentiate by. `labels` is what the network is conditioned on. Fields from `eps` on
    are set once the network has been evaluated.
    `resources` holds what the method's needs name; `memory` lasts for one chain: what a method keeps of one step for
    the next, each row of it belonging to the image of that row.
    """

    x_t: Tensor
    index: int
    schedule: Schedule
    labels: Condition
    model: DiffusionModel
    streams: ImageStreams
    resources: Mapping[str, Any]
    passes: Counter[str]
    memory: dict[str, Any] = field(default_factory=dict)
    eps: Tensor = field(init=False)
    x0_hat: Tensor = field(init=False)
    mean: Tensor = field(init=False)
    variance: Tensor = field(init=False)

    @property
    def classes(self) -> Tensor | None:
        """Class labels int64 `(B,)`, None without; prompts instead of classes exit 2."""
        if isinstance(self.labels, TextCondition):
            raise BadInputError(f"{self.model.name} is conditioned on prompts; this method knows classes only")
        return self.labels

    @property
    def timestep(self) -> int:
        """Original training index that the network receives."""
        return self.schedule.timesteps[self.index]

    def rng(self, shape: tuple[int, ...], stream: str) -> Tensor:
        """Standard normal draws of a private stream at this step, `(B, *shape)`."""
        return self.streams.normal(shape, stream, self.index).to(self.x_t)

    def denoise(self, x_t: Tensor, index: int | None = None) -> Tensor:
        """Denoised estimate, not clipped, of any state at this or another respaced index; differentiable."""
        return predict(
            self.model, self.schedule, x_t, self.index if index is None else index, self.labels, self.passes
        ).x0_hat

    def denoise_at(self, x_t: Tensor, timestep: int, alpha_bar: float, condition: Condition) -> Tensor:
        """Denoised estimate of any state at an original timestep, which the chain need not visit, under any condition;
        `alpha_bar` is its noise level. Differentiable in state and condition."""
        eps = evaluate(self.model, x_t, timestep, condition, self.passes)[:, : x_t.shape[1]]
        return x_t / alpha_bar**0.5 - (1 / alpha_bar - 1) ** 0.5 * eps

    def evaluated(self, labels: Condition) -> StepContext:
        """This step with the network evaluated once more at `x_t`, under `labels`. With gradients enabled its `x_t` is
        a leaf of its own, to which its `x0_hat` carries the graph."""
        x_t = self.x_t.detach().requires_grad_(torch.is_grad_enabled())
        step = replace(self, x_t=x_t, labels=labels)
        seen = predict(self.model, self.schedule, x_t, self.index, labels, self.passes)
        step.eps, step.x0_hat, step.variance = seen.eps.detach(), seen.x0_hat, seen.log_variance.exp()
        return step

    @property
    def mirrored_timestep(self) -> int:
        """Original timestep T - t, at the other end of the training chain, within 0 .. T - 1."""
        return min(max(self.model.train_steps - self.timestep, 0), self.model.train_steps - 1)

    def noised(self, x0: Tensor, index: int, stream: str, draw: int = 0) -> Tensor:
        """`x0` as q(x_i | x_0) would leave it at respaced `index`, with noise of a private stream; `draw` numbers
        independent noises of one step."""
        return self._noised(x0, float(self.schedule.alphas_cumprod[index]), stream, draw)

    def noised_at(self, x0: Tensor, timestep: int, stream: str, draw: int = 0) -> tuple[Tensor, float]:
        """The same at an original timestep, which the chain need not visit, with its alpha_bar."""
        alpha_bar = float(self.schedule.training[timestep])
        return self._noised(x0, alpha_bar, stream, draw), alpha_bar

    def _noised(self, x0: Tensor, alpha_bar: float, stream: str, draw: int) -> Tensor:
        noise = self.rng(tuple(x0.shape[1:]), stream if draw == 0 else f"{stream}-{draw}")
        return alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * noise

    def decode(self, x0: Tensor) -> Tensor:
        """Diffusion space to images, nominally `[0, 1]`, `(B, 3, H, W)`, not clamped, differentiable. Only that of
        latents is a network, and counted."""
        if isinstance(self.labels, TextCondition):
            self.passes["decoder_forward"] += 1
        return self.model.decode(x0)

    def gradient(self, output: Tensor, cotangent: Tensor) -> Tensor:
        """Vector-Jacobian product of something computed from `x0_hat` down to `x_t` (one backward of the network)."""
        self.passes["denoiser_backward"] += self.labels.branches if isinstance(self.labels, TextCondition) else 1
        (gradient,) = torch.autograd.grad(output, self.x_t, cotangent)
        return gradient

    def finite(self, gradient: Tensor) -> Tensor:
        """A gradient `(B, ...)` with zeros for images at which it is not finite: these are left alone at this step,
        with a warning, rather than ending the run."""
        return torch.where(self.usable(gradient), gradient, 0.0)

    def usable(self, gradient: Tensor) -> Tensor:
        """At which images a gradient `(B, ...)` is finite, `(B, 1, ...)`; a warning tells of the others."""
        usable = finite_rows(gradient)
        if lost := int((~usable).sum()):
            _log.warning("step %d: %s left alone, the gradient is not finite", self.index, counted(lost, "image"))
        return usable


def finite_rows(rows: Tensor) -> Tensor:
    """Whether all of an image's entries are finite, `(B, 1, ...)`."""
    return rows.isfinite().flatten(1).all(dim=1).view(-1, *[1] * (rows.ndim - 1))


class Method:
    """Base of the sampling methods: hyperparameters are dataclass fields, hooks are optional.

    A method may define any of
      `initial(streams, shape, schedule) -> (x, start_index)`  starting state; default N(0, I) at the last index
      `guides(index, schedule) -> bool`                        steps whose `x0_hat` must carry a graph
      `condition(step, labels) -> labels`                      what the network is conditioned on
      `pre_step(step) -> x_t`                                  moves x_t; the network is then evaluated there
      `eps_shift(step) -> delta`                               added to the predicted noise (guidance in DDIM form)
      `correct(step) -> delta | None`                          added to x_{t-1} after the transition
      `objective(step) -> {name: (B,)}`                        what it seeks, larger is more, of `x0_hat`; for reports
      `check_use(benchmark, class_conditional)`                refuses, before any work, settings that cannot do there
    A class that has them without inheriting from this one works as well. `requires` names what it needs beside the
    generator (see `minoritybench.needs`); where that depends on its settings, a method `needs(class_conditional)` does.
    `transition` is `ancestral`, `ddim` or None for the generator's own. `presets` are named settings, `unpublished`
    says of a preset that users expect why there is none. `later` are hyperparameters that records and prepared parts
    leave out where they are at the default, for there was a time without them.
    """

    transition: ClassVar[str | None] = None
    requires: ClassVar[frozenset[str]] = frozenset()
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    unpublished: ClassVar[Mapping[str, str]] = {}
    later: ClassVar[frozenset[str]] = frozenset()


def evaluate(model: DiffusionModel, x_t: Tensor, timestep: int, labels: Condition, passes: Counter[str]) -> Tensor:
    """The network's output at an original timestep, counted as many times as it has branches."""
    passes["denoiser_forward"] += labels.branches if isinstance(labels, TextCondition) else 1
    timesteps = torch.full((x_t.shape[0],), timestep, dtype=torch.int64, device=x_t.device)
    return model.predict(x_t, timesteps, labels)


def predict(
    model: DiffusionModel, schedule: Schedule, x_t: Tensor, index: int, labels: Condition, passes: Counter[str]
) -> Prediction:
    """Evaluate the network at a respaced index; learned-range variance where it predicts one.

    Reference: Nichol and Dhariwal 2021, Eq. 15. The variance fraction is not clamped, as in the published code;
    without one the posterior variance is used. Both ends are those of the respaced chain.
    """
    output = evaluate(model, x_t, schedule.timesteps[index], labels, passes)
    channels = x_t.shape[1]
    low = float(schedule.posterior_log_variance[index])
    if output.shape[1] == 2 * channels:
        eps, fraction = torch.split(output, channels, dim=1)
        high = float(torch.tensor(schedule.betas[index]).log())
        log_variance = ((fraction + 1) / 2 * (high - low) + low).detach()
    else:
        eps = output
        log_variance = torch.full_like(x_t, low).detach()
    alpha_bar = float(schedule.alphas_cumprod[index])
    x0_hat = x_t / alpha_bar**0.5 - (1 / alpha_bar - 1) ** 0.5 * eps
    return Prediction(eps=eps, x0_hat=x0_hat, log_variance=log_variance)
