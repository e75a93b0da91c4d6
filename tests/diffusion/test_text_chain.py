"""The loop under prompts, with a network whose noise is written out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from minoritybench.baselines.adm import Adm
from minoritybench.baselines.ddim import Ddim
from torch import Tensor

from minoritybench.diffusion.loop import run_chain
from minoritybench.diffusion.schedule import respaced, scaled_linear_betas, trailing_timesteps
from minoritybench.diffusion.step import Method, StepContext
from minoritybench.diffusion.text import TextCondition
from minoritybench.errors import BadInputError
from minoritybench.methods import parse_settings
from minoritybench.records import load_benchmark
from minoritybench.rng import ImageStreams
from minoritybench.text_run import open_text_run

CHAIN = respaced(scaled_linear_betas(1000, 0.00085, 0.012), trailing_timesteps(1000, 4))


class WordModel:
    """eps = (length of the prompt / 10) x_t, with guidance between the empty prompt and it; not clipped."""

    name, weights_sha256, dtype, schedule, train_steps = "words", "", "float32", "", 1000
    state_shape: tuple[int, ...] = (1, 2, 2)
    num_classes = None
    micro_batch, threads = 2, 1
    transition, clip_x0 = "ddim", False

    def encode_prompts(self, prompts: Sequence[str], guidance_scale: float) -> TextCondition:
        embeds = torch.tensor([[[len(text) / 10.0]] for text in prompts])
        empty = TextCondition(tuple("" for _ in prompts), torch.zeros_like(embeds))
        guided = guidance_scale not in (0.0, 1.0)
        return TextCondition(tuple(prompts), embeds, None, None, empty if guided else None, guidance_scale)

    def predict(self, x_t: Tensor, timestep: Tensor, labels: Any) -> Tensor:
        eps = labels.embeds[:, :, :, None] * x_t
        if labels.unconditional is None:
            return eps
        clean = self.predict(x_t, timestep, labels.unconditional)
        return clean + labels.guidance_scale * (eps - clean)

    def decode(self, x0: Tensor) -> Tensor:
        return x0.expand(-1, 3, -1, -1)


def chain(method: Any, scale: float = 1.0, start_scale: float = 1.0) -> tuple[Tensor, Any]:
    model, streams = WordModel(), ImageStreams(3, range(2))
    condition = model.encode_prompts(["nine", "seventeen"], scale)
    return run_chain(model, CHAIN, method, streams, condition, start_scale=start_scale)


def expected(scale: float) -> Tensor:
    """DDIM by hand in float64: every step multiplies the state."""
    x = ImageStreams(3, range(2)).normal((1, 2, 2), "initial").double()
    eps = scale * torch.tensor([0.4, 0.9], dtype=torch.float64)[:, None, None, None]
    for index in (3, 2, 1, 0):
        now, before = CHAIN.alphas_cumprod[index], CHAIN.alphas_cumprod_prev[index]
        x = x * (((1 - eps * (1 - now) ** 0.5) / now**0.5) * before**0.5 + eps * (1 - before) ** 0.5)
    return x


@dataclass(frozen=True)
class Plain(Method):
    """No hook and no transition of its own."""


@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("method", [Plain(), Ddim()])
def test_deterministic_chain_under_guidance(scale: float, method: Any) -> None:
    x, passes = chain(method, scale)
    assert torch.allclose(x.double(), expected(scale), rtol=1e-5)
    assert passes == {"denoiser_forward": 4 if scale == 1.0 else 8}


def test_a_method_that_names_its_transition_keeps_it() -> None:
    assert not torch.allclose(chain(Adm())[0], chain(Ddim())[0])


def test_start_is_scaled() -> None:
    assert torch.allclose(chain(Plain(), start_scale=0.5)[0], 0.5 * chain(Plain())[0])


def test_states_are_denoised_at_any_level_under_any_prompt() -> None:
    seen = {}

    @dataclass(frozen=True)
    class Looks(Method):
        def condition(self, step: StepContext, labels: TextCondition) -> TextCondition:
            seen[step.index] = step.denoise_at(torch.ones(2, 1, 2, 2), 37, 0.25, labels.alone())
            return labels

    _, passes = chain(Looks(), 2.5)
    eps = torch.tensor([0.4, 0.9])[:, None, None, None].expand(2, 1, 2, 2)
    assert torch.allclose(seen[2], 2 - 3**0.5 * eps)
    assert passes == {"denoiser_forward": 4 * 3}


def test_methods_that_know_classes_refuse_prompts() -> None:
    @dataclass(frozen=True)
    class Classes(Method):
        def correct(self, step: StepContext) -> Tensor | None:
            return step.classes

    with pytest.raises(BadInputError, match="conditioned on prompts"):
        chain(Classes())


def test_chain_settings_come_as_text(tmp_path: Path) -> None:
    prompts = tmp_path / "two.txt"
    prompts.write_text("nine\nseventeen\n")
    given = dict(parse_settings(("alpha_shift=1", "guidance_scale=3", "ending=diffusers"), "--chain"))
    run = open_text_run(WordModel(), load_benchmark("sd15-coco"), 2, str(prompts), given)
    assert run is not None
    assert (run.spec.alpha_shift, run.spec.guidance_scale, run.spec.ending) == (1, 3.0, "diffusers")
    assert run.prompts.texts == ("nine", "seventeen")


@pytest.mark.parametrize("setting", ["alpha_shift=2", "guidance_scale=-1", "ending=early", "speed=2", "prompts=x"])
def test_odd_chain_settings_are_refused(setting: str, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("nine\n")
    given = dict(parse_settings((setting,), "--chain"))
    with pytest.raises(BadInputError, match=f"--chain.*{setting.partition('=')[0]}"):
        open_text_run(WordModel(), load_benchmark("sd15-coco"), 1, str(tmp_path / "p.txt"), given)
