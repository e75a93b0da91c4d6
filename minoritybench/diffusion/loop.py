"""The one sampling loop. Every method, pixel or latent, runs through `run_chain`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from minoritybench.diffusion.model import DiffusionModel
from minoritybench.diffusion.schedule import Schedule
from minoritybench.diffusion.step import Prediction, StepContext, predict
from minoritybench.diffusion.text import Condition
from minoritybench.errors import BadInputError
from minoritybench.rng import ImageStreams

INITIAL_STREAM = "initial"
TRANSITION_STREAM = "transition"


def run_chain(
    model: DiffusionModel,
    schedule: Schedule,
    method: Any,
    streams: ImageStreams,
    labels: Condition,
    *,
    resources: Mapping[str, Any] | None = None,
    start_scale: float = 1.0,
    device: str = "cpu",
) -> tuple[Tensor, Counter[str]]:
    """Sample one micro-batch: final `x_0` `(B, *state_shape)` and the network passes each sample cost.

    `streams` names the images; `labels` is what the network is conditioned on. `start_scale` multiplies the initial
    noise. Unless the model says otherwise the denoised estimate is clamped to [-1, 1] in the transition (never in what
    guidance sees): without it the first step of a cosine chain divides by 5e-5.
    """
    passes: Counter[str] = Counter()
    memory: dict[str, Any] = {}
    step_rule = _transition_rule(method, model)
    clip_x0 = bool(getattr(model, "clip_x0", True))
    x_t, start = _initial(method, streams, model, schedule)
    x_t = start_scale * x_t.to(device)
    for index in range(start, -1, -1):
        step = StepContext(x_t, index, schedule, labels, model, streams, resources or {}, passes, memory)
        prediction = _evaluate(step, method)
        x0_clean, eps = _apply_eps_shift(step, method, prediction, clip_x0)
        x_next = step_rule(step, x0_clean, eps)
        x_t = _corrected(step, method, x_next)
        _check_finite(x_t, step, method)
    return x_t, passes


def _transition_rule(method: Any, model: DiffusionModel) -> Callable[[StepContext, Tensor, Tensor], Tensor]:
    name = getattr(method, "transition", None) or getattr(model, "transition", "ancestral")
    rules = {"ancestral": _ancestral, "ddim": _ddim_rule(getattr(method, "stochasticity", 0.0))}
    if name not in rules:
        raise BadInputError(f"{type(method).__name__}.transition is {name!r}; known: {', '.join(rules)}")
    return rules[name]


def _initial(method: Any, streams: ImageStreams, model: DiffusionModel, schedule: Schedule) -> tuple[Tensor, int]:
    hook = getattr(method, "initial", None)
    if hook is None:
        return streams.normal(model.state_shape, INITIAL_STREAM), schedule.steps - 1
    x, start = hook(streams, model.state_shape, schedule)
    return x, int(start)


def _evaluate(step: StepContext, method: Any) -> Prediction:
    """Run the network for this step, with a graph where the method guides, and fill the step's fields."""
    if (condition := getattr(method, "condition", None)) is not None:
        step.labels = condition(step, step.labels)
    if (pre_step := getattr(method, "pre_step", None)) is not None:
        step.x_t = pre_step(step).detach()
    guides = getattr(method, "guides", None)
    guided = guides is not None and guides(step.index, step.schedule)
    if guided:
        step.x_t = step.x_t.detach().requires_grad_(True)
    with torch.set_grad_enabled(guided):
        prediction = predict(step.model, step.schedule, step.x_t, step.index, step.labels, step.passes)
    _check_finite(prediction.x0_hat, step, method)
    step.eps = prediction.eps.detach()
    step.x0_hat = prediction.x0_hat
    step.variance = prediction.log_variance.exp()
    return prediction


def _check_finite(values: Tensor, step: StepContext, method: Any) -> None:
    """A diverged chain ends with one line, not with an image of a cast NaN."""
    bad = (~values.detach().isfinite().flatten(1).all(dim=1)).nonzero().flatten()
    if bad.numel():
        raise BadInputError(
            f"{type(method).__name__}: image {step.streams.indices[int(bad[0])]} of seed {step.streams.seed} is not"
            f" finite at step {step.index} of {step.schedule.steps}; choose gentler hyperparameters (--set)"
        )


def _apply_eps_shift(step: StepContext, method: Any, prediction: Prediction, clip_x0: bool) -> tuple[Tensor, Tensor]:
    """The clean estimate and noise that the transition uses: clipped, then shifted if the method shifts the noise.

    After a shift the estimate is recomputed without clipping, as the published DDIM guidance does.
    """
    x_t = step.x_t.detach()
    alpha_bar = float(step.schedule.alphas_cumprod[step.index])
    x0 = prediction.x0_hat.detach()
    eps = prediction.eps.detach()
    if clip_x0:
        x0 = x0.clamp(-1.0, 1.0)
        eps = (x_t / alpha_bar**0.5 - x0) / (1 / alpha_bar - 1) ** 0.5
    step.mean = _posterior_mean(step, x0)
    shift_hook = getattr(method, "eps_shift", None)
    shift = None if shift_hook is None else shift_hook(step)
    if shift is None:
        return x0, eps
    eps = eps + shift.detach()
    x0 = x_t / alpha_bar**0.5 - (1 / alpha_bar - 1) ** 0.5 * eps
    step.mean = _posterior_mean(step, x0)
    return x0, eps


def _posterior_mean(step: StepContext, x0: Tensor) -> Tensor:
    table = step.schedule
    x0_part = float(table.x0_coefficient[step.index]) * x0
    return x0_part + float(table.x_t_coefficient[step.index]) * step.x_t.detach()


def _transition_noise(step: StepContext) -> Tensor:
    return step.streams.normal(step.model.state_shape, TRANSITION_STREAM, step.index).to(step.x_t.device)


def _ancestral(step: StepContext, x0: Tensor, eps: Tensor) -> Tensor:
    """x_{i-1} ~ N(posterior mean, variance). Reference: Ho et al. 2020, Eq. 7; no noise at the last step."""
    if step.index == 0:
        return step.mean
    return step.mean + step.variance.sqrt() * _transition_noise(step)


def _ddim_rule(stochasticity: float) -> Callable[[StepContext, Tensor, Tensor], Tensor]:
    """Reference: Song et al. 2021 (DDIM), Eq. 12 and 16 with eta = `stochasticity`; the last step returns x0."""

    def rule(step: StepContext, x0: Tensor, eps: Tensor) -> Tensor:
        now = float(step.schedule.alphas_cumprod[step.index])
        before = float(step.schedule.alphas_cumprod_prev[step.index])
        sigma = stochasticity * ((1 - before) / (1 - now) * (1 - now / before)) ** 0.5
        x = before**0.5 * x0 + (1 - before - sigma**2) ** 0.5 * eps
        return x + sigma * _transition_noise(step) if sigma > 0 and step.index > 0 else x

    return rule


def _corrected(step: StepContext, method: Any, x_next: Tensor) -> Tensor:
    hook = getattr(method, "correct", None)
    delta = None if hook is None else hook(step)
    return x_next if delta is None else x_next + delta.detach()
