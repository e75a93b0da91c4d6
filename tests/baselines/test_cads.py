"""CADS: the annealing of prompts against its formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from minoritybench.baselines.cads import NOISE_STREAM, Cads
from toy_prompts import CHAIN, TinyText, text_step

from minoritybench.diffusion.text import TextCondition
from minoritybench.errors import BadInputError
from minoritybench.records import load_benchmark


def annealed(index: int, scale: float = 1.0, **settings: Any) -> tuple[TextCondition, TextCondition]:
    step = text_step(index, scale=scale)
    out = Cads(**settings).condition(step, step.labels)
    assert isinstance(step.labels, TextCondition)
    assert isinstance(out, TextCondition)
    return step.labels, out


def test_gamma_of_the_four_lightning_steps() -> None:
    gammas = [Cads().gamma(t / 1000) for t in (999, 749, 499, 249)]
    assert gammas == pytest.approx([0.0, 0.151 / 0.3, 1.0, 1.0])
    assert [Cads(tau1=0.5, tau2=0.5).gamma(t) for t in (0.5, 0.51)] == [1.0, 0.0]
    assert Cads(tau1=1.0, tau2=1.0).gamma(1.0) == 1.0


def test_late_prompts_are_the_same_objects() -> None:
    base, out = annealed(0)
    assert out is base


def test_embedding_is_the_rescaled_mixture_and_the_empty_prompt_stays_clean() -> None:
    step = text_step(2, scale=4.0)
    base, out = annealed(2, scale=4.0, s=0.3, psi=0.7)
    gamma = (0.9 - 0.749) / 0.3
    for row in range(2):
        for y, found, noise in (
            (base.embeds[row], out.embeds[row], step.rng((3, 4), NOISE_STREAM)[row]),
            (base.pooled[row], out.pooled[row], step.rng((5,), f"{NOISE_STREAM}-pooled")[row]),
        ):
            noised = gamma**0.5 * y + 0.3 * (1 - gamma) ** 0.5 * noise
            rescaled = (noised - noised.mean()) / noised.std() * y.std() + y.mean()
            assert torch.allclose(found, 0.7 * rescaled + 0.3 * noised, atol=1e-6)
    assert out.unconditional is base.unconditional
    assert (out.guidance_scale, out.time_ids) == (4.0, None)


def test_statistics_are_each_samples_own() -> None:
    base, out = annealed(3)
    for row in range(2):
        assert torch.isclose(out.embeds[row].mean(), base.embeds[row].mean(), atol=1e-6)
        assert torch.isclose(out.embeds[row].std(), base.embeds[row].std(), atol=1e-6)
    assert not torch.isclose(out.embeds[0].std(), out.embeds[1].std())


def test_no_noise_gives_the_mean_and_no_nan() -> None:
    base, out = annealed(3, s=0.0)
    assert torch.allclose(out.embeds, base.embeds.mean(dim=(1, 2), keepdim=True).expand_as(base.embeds))
    between = annealed(2, s=0.0)[1]
    assert torch.allclose(between.embeds, base.embeds, atol=1e-6)


def test_noise_is_new_at_every_step_and_half_precision_is_kept() -> None:
    model = TinyText()
    first, second = (text_step(index, model=model) for index in (3, 2))
    method = Cads(tau1=0.0, tau2=0.0)
    one, two = (method.condition(step, step.labels).embeds for step in (first, second))  # type: ignore[union-attr]
    assert not torch.allclose(one, two)
    half = torch.randn(2, 3, 4, dtype=torch.float16)
    assert method.annealed(half, 0.5, torch.randn(2, 3, 4)).dtype == torch.float16


def test_switches() -> None:
    base, out = annealed(3, pooled=False, dynamic_cfg=True, scale=4.0)
    assert out.pooled is base.pooled
    assert out.guidance_scale == 0.0
    # 1 - i/N of the second of four steps is 0.75, its t/T 0.749
    by_step, by_time = annealed(2, time="step")[1], annealed(2)[1]
    assert not torch.equal(by_step.embeds, by_time.embeds)
    assert CHAIN.timesteps[2] == 749


def test_settings_and_benchmarks_without_prompts_are_refused() -> None:
    for settings in ({"tau1": 0.9, "tau2": 0.6}, {"s": -1.0}, {"psi": 2.0}):
        with pytest.raises(BadInputError, match="cads"):
            Cads(**settings)
    with pytest.raises(BadInputError, match="'digits' has none"):
        Cads().check_use(load_benchmark("digits"), False)
