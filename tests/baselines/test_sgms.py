"""SGMS: its gradient against finite differences, its gate, its bound."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from minoritybench.baselines.sgms import NOISE_STREAM, Sgms
from torch import Tensor
from toy_denoisers import SHAPE, SmoothModel, step_at
from toy_prompts import BETAS, text_step

from minoritybench.diffusion.schedule import make_schedule
from minoritybench.diffusion.step import StepContext
from minoritybench.errors import BadInputError
from minoritybench.perceptual import euclidean

INDEX = 10
LEVEL = 40  # 0.8 of 50 steps


def states(batch: int = 2) -> Tensor:
    return torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def sgms(**settings: Any) -> Sgms:
    return Sgms(distance="l2", **settings)


def guided(method: Sgms, x_t: Tensor) -> tuple[StepContext, Tensor]:
    step = step_at(INDEX, x_t, SmoothModel(), **{"distance:l2": euclidean})
    delta = method.correct(step)
    assert delta is not None
    return step, delta


def alpha_bar(index: int) -> float:
    return float(make_schedule("cosine", "50").alphas_cumprod[index])


def estimate_of(x_t: Tensor, index: int) -> Tensor:
    """The denoised estimate, written from the forward process."""
    model, a = SmoothModel(), alpha_bar(index)
    t = torch.full((len(x_t),), make_schedule("cosine", "50").timesteps[index])
    return (x_t - (1 - a) ** 0.5 * model.predict(x_t, t, None)) / a**0.5


@pytest.mark.parametrize("draws", [1, 3])
def test_delta_is_the_normalised_gradient_with_the_reconstruction_frozen(draws: int) -> None:
    x_t = states()
    step, delta = guided(sgms(w=0.7, draws=draws), x_t)
    frozen = estimate_of(x_t, INDEX)
    a = alpha_bar(LEVEL)
    targets = []
    for draw in range(draws):
        noise = step.rng(SHAPE, NOISE_STREAM if draw == 0 else f"{NOISE_STREAM}-{draw}")
        targets.append(estimate_of(a**0.5 * frozen + (1 - a) ** 0.5 * noise, LEVEL))

    def loss(x: Tensor) -> Tensor:
        here = estimate_of(x, INDEX)
        return torch.stack([(here - target).flatten(1).norm(dim=1) for target in targets]).mean(dim=0)

    gradient, h = torch.zeros_like(x_t), 1e-6
    for pixel in range(27):
        nudge = torch.zeros(27, dtype=torch.float64)
        nudge[pixel] = h
        slope = (loss(x_t + nudge.view(SHAPE)) - loss(x_t - nudge.view(SHAPE))) / (2 * h)
        gradient.flatten(1)[:, pixel] = slope
    peak = gradient.abs().flatten(1).amax(dim=1).view(-1, 1, 1, 1)
    assert torch.allclose(delta, 0.7 * step.variance * gradient / peak, rtol=1e-6, atol=1e-12)
    assert torch.allclose(delta.abs().flatten(1).amax(dim=1), torch.full((2,), 0.7).double() * step.variance.max())


def test_a_clipped_estimate_is_compared_and_noised_again_clipped() -> None:
    """Against autograd through the clip, the reconstruction held constant."""
    x_t = 3 * states()
    step, delta = guided(sgms(w=0.7, clip_for_guidance=True), x_t)
    a = alpha_bar(LEVEL)
    clipped = estimate_of(x_t, INDEX).clamp(-1, 1)
    assert not torch.equal(clipped, estimate_of(x_t, INDEX))
    target = estimate_of(a**0.5 * clipped + (1 - a) ** 0.5 * step.rng(SHAPE, NOISE_STREAM), LEVEL)
    leaf = x_t.clone().requires_grad_(True)
    loss = (estimate_of(leaf, INDEX).clamp(-1, 1) - target).flatten(1).norm(dim=1)
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    peak = gradient.abs().flatten(1).amax(dim=1).view(-1, 1, 1, 1)
    assert torch.allclose(delta, 0.7 * step.variance * gradient / peak, rtol=1e-9, atol=1e-14)
    _, free = guided(sgms(w=0.7), x_t)
    assert not torch.allclose(delta, free, rtol=1e-2)


def test_no_graph_is_built_for_the_reconstruction() -> None:
    model = SmoothModel()
    step = step_at(INDEX, states(), model, **{"distance:l2": euclidean})
    sgms().correct(step)
    table = make_schedule("cosine", "50").timesteps
    assert model.calls == [(table[INDEX], True), (table[LEVEL], False)]
    assert step.passes == {"denoiser_forward": 2, "denoiser_backward": 1, "distance": 1}


def test_constant_schedule_leaves_the_variance_out() -> None:
    x_t = states()
    step, scaled = guided(sgms(w=1.0), x_t)
    _, plain = guided(sgms(w=1.0, schedule="constant"), x_t)
    assert torch.allclose(plain * step.variance, scaled)
    assert torch.allclose(plain.abs().flatten(1).amax(dim=1), torch.ones(2, dtype=torch.float64))


def test_a_step_raises_the_discrepancy() -> None:
    """Against the same frozen reconstruction the estimate moves away from it, and towards it with w < 0."""
    x_t = states()
    step, delta = guided(sgms(w=1.0, schedule="constant"), x_t)
    a = alpha_bar(LEVEL)
    noised = a**0.5 * estimate_of(x_t, INDEX) + (1 - a) ** 0.5 * step.rng(SHAPE, NOISE_STREAM)
    target = estimate_of(noised, LEVEL)

    def away(x: Tensor) -> Tensor:
        return (estimate_of(x, INDEX) - target).flatten(1).norm(dim=1)

    assert (away(x_t + 1e-3 * delta) > away(x_t)).all()
    _, back = guided(sgms(w=-1.0, schedule="constant"), x_t)
    assert torch.equal(back, -delta)


def test_guided_steps() -> None:
    long = make_schedule("cosine", "250")
    celeba = [i for i in range(250) if Sgms().guides(i, long)]
    assert (len(celeba), celeba[0], celeba[-1]) == (50, 0, 245)
    assert sum(Sgms(interval=2).guides(i, long) for i in range(250)) == 125
    late = [i for i in range(250) if Sgms(stop=0.5).guides(i, long)]
    assert (late[0], len(late)) == (130, 24)
    assert not any(Sgms(w=0).guides(i, long) for i in range(250))


def test_equal_images_have_no_gradient_rather_than_an_undefined_one() -> None:
    a = torch.zeros(1, 1, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(euclidean(a, torch.zeros(1, 1, 2, 2)).sum(), a)
    assert torch.equal(gradient, torch.zeros_like(a))


@pytest.mark.parametrize("settings", [{"interval": 0}, {"draws": 0}, {"perturb": 1.0}, {"perturb": -0.1}])
def test_senseless_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BadInputError, match="sgms: interval"):
        sgms(**settings)


@pytest.mark.parametrize("placement", ["after", "before"])
def test_latents_are_noised_to_the_mirrored_timestep_under_the_prompt_alone(placement: Any) -> None:
    step = text_step(2, scale=4.0)
    method = sgms(w=0.7, level="annealed", branch="conditional", placement=placement, interval=1, schedule="constant")
    base, model = step.labels.alone(), step.model  # type: ignore[union-attr]
    now, then = (float((1 - BETAS).cumprod()[t]) for t in (749, 251))

    def estimate(x: Tensor, timestep: int, bar: float) -> Tensor:
        return (x - (1 - bar) ** 0.5 * model.predict(x, torch.full((2,), timestep), base)) / bar**0.5

    leaf = step.x_t.clone().requires_grad_(True)
    x0 = estimate(leaf, 749, now)
    noised = then**0.5 * x0 + (1 - then) ** 0.5 * step.rng(tuple(x0.shape[1:]), NOISE_STREAM)
    discrepancy = (x0 - estimate(noised, 251, then).detach()).flatten(1).norm(dim=1)
    (gradient,) = torch.autograd.grad(discrepancy.sum(), leaf)
    expected = 0.7 * gradient / gradient.abs().flatten(1).amax(dim=1).view(-1, 1, 1, 1)
    assert not method.guides(step.index, step.schedule)
    moved = method.pre_step(step) - step.x_t if placement == "before" else method.correct(step)
    assert moved is not None
    assert torch.allclose(moved, expected, rtol=1e-9)
    assert step.passes == {"denoiser_forward": 2, "denoiser_backward": 1, "distance": 1}
    assert method.correct(step) is None or placement == "after"
    assert torch.allclose(method.objective(step)["reconstruction discrepancy"], discrepancy.detach())
