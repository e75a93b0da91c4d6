"""MinorityPrompt: what it climbs, where it looks, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from minoritybench.baselines.minorityprompt import NOISE_STREAM, MinorityPrompt
from torch import Tensor
from toy_prompts import BETAS, SHAPE, TinyText, text_step

from minoritybench.diffusion.schedule import leading_timesteps, respaced
from minoritybench.diffusion.step import StepContext
from minoritybench.diffusion.text import TextCondition
from minoritybench.errors import BadInputError
from minoritybench.methods import configure
from minoritybench.records import load_benchmark

SD15 = respaced(BETAS, leading_timesteps(1000, 50, 1))


def method(**settings: Any) -> MinorityPrompt:
    return MinorityPrompt(**{"iterations": 4, "t_lo": 0.0, **settings})


def conditioned(method: MinorityPrompt, step: StepContext) -> TextCondition:
    out = method.condition(step, step.labels)
    assert isinstance(out, TextCondition)
    return out


@pytest.mark.parametrize("norm", ["squared", "l2"])
def test_discrepancy_is_that_of_the_paper(norm: Any) -> None:
    step, model = text_step(2), TinyText()
    chosen = method(norm=norm, weight=0.5)
    learned = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with_token, base = model.embed_tokens(["nine", "seventeen"], [learned]), step.labels
    found = chosen.discrepancy(step, with_token, base, 0)
    t, s = 749, 1000 - 749
    now, then = (float((1 - BETAS).cumprod()[i]) for i in (t, s))

    def estimate(x: Tensor, timestep: int, bar: float, labels: Any) -> Tensor:
        return (x - (1 - bar) ** 0.5 * model.predict(x, torch.full((2,), timestep), labels)) / bar**0.5

    x0 = estimate(step.x_t, t, now, with_token)
    again = estimate(then**0.5 * x0 + (1 - then) ** 0.5 * step.rng(SHAPE, NOISE_STREAM), s, then, base)
    distance = (x0 - again).flatten(1).norm(dim=1)
    assert torch.allclose(found, 1.5 * (distance**2 if norm == "squared" else distance))


def test_gradient_holds_each_estimate_constant_in_one_term() -> None:
    """With lambda = 1 and squared norms the two half-gradients make up that of ||x0 - x0'||^2: central differences."""
    step, model = text_step(2), TinyText()
    learned = torch.randn(2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def gain(token: Tensor) -> Tensor:
        return method().discrepancy(step, model.embed_tokens(["nine", "seventeen"], [token]), step.labels, 0)

    leaf = learned.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(gain(leaf).sum(), leaf)
    for entry in range(8):
        nudge = torch.zeros(8, dtype=torch.float64)
        nudge[entry] = 1e-6
        rise = (gain(learned + nudge.view(2, 4)) - gain(learned - nudge.view(2, 4))).sum() / 2e-6
        assert torch.isclose(slope.flatten()[entry], rise / 2, rtol=1e-5)  # the value counts the distance twice


def test_optimisation_raises_the_discrepancy_and_leaves_the_networks_alone() -> None:
    step, model = text_step(2), TinyText()
    step.model = model
    chosen = method(iterations=60, lr=0.05)
    before = chosen.discrepancy(step, model.embed_tokens(["nine", "seventeen"], [torch.zeros(2, 4)]), step.labels, 0)
    base, step.labels = step.labels, conditioned(chosen, step)
    after = chosen.discrepancy(step, step.labels, base, 0)
    assert (after > 1.02 * before).all()
    fresh = chosen.discrepancy(step, step.labels, base, chosen.iterations)
    assert torch.equal(chosen.objective(step)["prompt discrepancy"], fresh)
    assert not torch.equal(fresh, after)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_passes_and_the_empty_prompt() -> None:
    step = text_step(3, scale=4.0)
    out = conditioned(method(iterations=3), step)
    assert step.passes == {"denoiser_forward": 6, "denoiser_backward": 6, "text_forward": 4, "text_backward": 3}
    assert out.unconditional is step.labels.unconditional
    assert out.guidance_scale == 4.0


def test_a_batch_equals_single_runs() -> None:
    both = conditioned(method(), text_step(2)).embeds
    for image in (0, 1):
        alone = conditioned(method(), text_step(2, images=[image])).embeds
        assert torch.allclose(alone[0], both[image], rtol=1e-12)


class Faulty(MinorityPrompt):
    """Has no finite gradient for image 1 at iterations 0 and 2."""

    def discrepancy(self, step: StepContext, condition: Any, base: Any, iteration: int) -> Tensor:
        gain = super().discrepancy(step, condition, base, iteration)
        return gain * torch.tensor([1.0, float("nan") if iteration in (0, 2) else 1.0])


def test_where_a_gradient_is_not_finite_token_and_moments_stay(caplog: pytest.LogCaptureFixture) -> None:
    """The other image is not touched by it, and the one goes on by Adam's formulas over its finite gradients alone."""
    step, plain = text_step(2), text_step(2)
    conditioned(Faulty(iterations=5, t_lo=0.0), step)
    conditioned(method(iterations=5), plain)
    ((found,),), ((expected,),) = step.memory.values(), plain.memory.values()
    assert torch.equal(found[0], expected[0])
    alone = text_step(2, images=[1])
    token, first, second = torch.zeros(1, 4, dtype=torch.float64), 0.0, 0.0
    for moves, iteration in enumerate((1, 3, 4), start=1):
        leaf = token.clone().requires_grad_(True)
        gain = method().discrepancy(alone, TinyText().embed_tokens(["seventeen"], [leaf]), alone.labels, iteration)
        (slope,) = torch.autograd.grad(-gain.sum(), leaf)
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        token = token - 1e-2 * (first / (1 - 0.9**moves)) / ((second / (1 - 0.999**moves)) ** 0.5 + 1e-8)
    assert torch.allclose(found[1], token[0], rtol=1e-9)
    assert caplog.messages == ["step 2: 1 image left alone, the gradient is not finite"] * 2


def test_levels_are_clamped_at_the_last_step_of_sd15() -> None:
    model = TinyText()
    for level, expected in (("code", 999), ("mirrored", 999), ("fixed", 750)):
        step = text_step(0, chain=SD15, model=model)
        conditioned(method(level=level, iterations=1), step)
        assert step.timestep == 1
        assert model.seen[-2:] == [1, expected]
    assert method(level="code").level_of(text_step(49, chain=SD15)) == 38
    levels = [method(level="code").level_of(text_step(index)) for index in (3, 2, 1, 0)]
    assert levels == [250, 500, 750, 999]


def test_optimised_steps() -> None:
    def numbers(**settings: Any) -> list[int]:
        return [49 - index for index in range(49, -1, -1) if MinorityPrompt(**settings).active(index, SD15)]

    assert numbers() == [0, 1, 2, 3, 4]
    assert numbers(interval=2) == [0, 2, 4]
    assert numbers(t_lo=0.0) == list(range(50))
    assert numbers(iterations=0) == []


def test_tokens_warm_start_and_are_kept_or_dropped() -> None:
    for keep in (True, False):
        chosen, step = method(t_lo=0.9, keep=keep), text_step(3)
        first = conditioned(chosen, step)
        later = text_step(2)
        later.memory = step.memory
        out = conditioned(chosen, later)
        assert (out is later.labels) is not keep
        assert torch.equal(out.embeds, first.embeds) is keep
    fresh, warm = text_step(2), text_step(2)
    warm.memory = step.memory
    assert not torch.equal(conditioned(method(), fresh).embeds, conditioned(method(), warm).embeds)


def test_no_iterations_are_the_same_prompts() -> None:
    step = text_step(3)
    assert conditioned(method(iterations=0, keep=True), step) is step.labels


def test_first_token_and_decayed_rate() -> None:
    """Adam's first move is the learning rate, whatever the gradient."""
    for init, start in (("mean", 0.0), ("cool", 1.0)):
        step = text_step(2)  # step number 1
        conditioned(method(iterations=1, lr=0.1, decay=0.4, init=init), step)
        (token,) = step.memory["minorityprompt-tokens"]
        assert torch.allclose((token - start).abs(), torch.full((2, 4), 0.06, dtype=torch.float64), rtol=1e-4)


def test_presets_and_refusals() -> None:
    code = configure("minorityprompt", {"preset": "official-code"}, load_benchmark("digits")).params
    assert [code[key] for key in ("level", "norm", "keep", "pooled")] == ["code", "l2", True, "official"]
    for settings in ({"iterations": -1}, {"interval": 0}, {"t_lo": 1.5}, {"draws": 0}):
        with pytest.raises(BadInputError, match="minorityprompt"):
            MinorityPrompt(**settings)
    with pytest.raises(BadInputError, match="'digits' has none"):
        method().check_use(load_benchmark("digits"), False)
