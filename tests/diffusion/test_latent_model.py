"""The latent backend against diffusers' own pipelines, on the published architectures with few channels."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from tiny_pipelines import tiny_sd, tiny_sdxl
from torch import Tensor

from minoritybench.diffusion.latent.loading import load_latent
from minoritybench.diffusion.latent.model import LatentModel
from minoritybench.diffusion.loop import run_chain
from minoritybench.diffusion.step import Method, StepContext
from minoritybench.diffusion.text import TextCondition
from minoritybench.records import TextSpec
from minoritybench.rng import ImageStreams

PROMPTS = ["a cat", "seven!", "a prompt that does not fit the window"]
PIPELINES = {"sd": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {"sd": tiny_sd(root / "sd"), "sdxl": tiny_sdxl(root / "sdxl")}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, LatentModel]:
    return {kind: load_latent(f"latent:{folder}") for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def fine(folders: dict[str, Path]) -> dict[str, tuple[LatentModel, Any]]:
    """Ours and diffusers' own, both in float64."""
    return {
        kind: (load_latent(f"latent:{folders[kind]}", dtype="float64"), pipeline(folders, kind)) for kind in folders
    }


def pipeline(folders: dict[str, Path], kind: str) -> Any:
    opened = PIPELINES[kind].from_pretrained(folders[kind], low_cpu_mem_usage=False).to(torch.float64)
    opened.set_progress_bar_config(disable=True)
    return opened


@dataclass(frozen=True)
class Float64Chain(Method):
    """No hook but a float64 start."""

    def initial(self, streams: ImageStreams, shape: tuple[int, ...], schedule: Any) -> tuple[Tensor, int]:
        return streams.normal(shape, "initial").double(), schedule.steps - 1


def ours(model: LatentModel, steps: int, spec: TextSpec) -> Tensor:
    schedule, streams = model.noise_schedule(steps, spec), ImageStreams(3, range(2))
    scale = (1 - schedule.alphas_cumprod[-1]) ** 0.5 if spec.start == "euler" else 1.0
    condition = model.encode_prompts(PROMPTS[:2], spec.guidance_scale)
    return run_chain(model, schedule, Float64Chain(), streams, condition, start_scale=scale)[0]


def theirs(pipe: Any, steps: int, guidance_scale: float) -> Tensor:
    start = ImageStreams(3, range(2)).normal((4, 8, 8), "initial").double()
    return pipe(
        PROMPTS[:2], num_inference_steps=steps, guidance_scale=guidance_scale, output_type="latent", latents=start
    ).images


def furthest(found: Tensor, expected: Tensor) -> float:
    """Largest difference in terms of the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("steps", "ending"), [(10, "x0"), (10, "diffusers"), (50, "diffusers")])
def test_chain_is_that_of_the_stable_diffusion_pipeline(fine: Any, steps: int, ending: Any) -> None:
    model, pipe = fine["sd"]
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, set_alpha_to_one=ending == "x0")
    found = ours(model, steps, TextSpec(prompts="", guidance_scale=7.5, ending=ending))
    assert furthest(found, theirs(pipe, steps, 7.5)) < 1e-6


@pytest.mark.parametrize("ending", ["x0", "diffusers"])
def test_what_differs_from_the_pipeline_is_its_float32_tables(fine: Any, ending: Any) -> None:
    model, pipe = fine["sd"]
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, set_alpha_to_one=ending == "x0")
    pipe.scheduler.alphas_cumprod = model._chain.alphas_cumprod()
    if ending == "diffusers":
        pipe.scheduler.final_alpha_cumprod = pipe.scheduler.alphas_cumprod[0]
    found = ours(model, 10, TextSpec(prompts="", guidance_scale=7.5, ending=ending))
    assert furthest(found, theirs(pipe, 10, 7.5)) < 1e-12


@pytest.mark.parametrize("start", ["unit", "euler"])
@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_chain_is_that_of_the_sdxl_pipeline_with_trailing_steps(fine: Any, guidance_scale: float, start: Any) -> None:
    model, pipe = fine["sdxl"]
    if start == "euler":
        pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    else:
        changes = {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True}
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **changes)
    spec = TextSpec(prompts="", guidance_scale=guidance_scale, spacing="trailing", start=start)
    assert furthest(ours(model, 4, spec), theirs(pipe, 4, guidance_scale)) < 1e-6


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_images_are_those_of_the_pipeline(fine: Any, kind: str) -> None:
    model, pipe = fine[kind]
    latents = 3 * torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample / 2 + 0.5
    torch.testing.assert_close(model.decode(latents), expected, rtol=0, atol=1e-12)
    assert expected.shape == (2, 3, 64, 64)
    assert expected.max() > 1 or expected.min() < 0  # not clamped


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_prompts_are_encoded_as_the_pipeline_does(fine: Any, kind: str, zeros: bool) -> None:
    model, pipe = fine[kind]
    model._zeros_for_empty = zeros
    pipe.register_to_config(force_zeros_for_empty_prompt=zeros)
    condition = model.encode_prompts(PROMPTS, 5.0)
    if kind == "sd":
        expected = pipe.encode_prompt(PROMPTS, "cpu", 1, True)
        found = (condition.embeds, condition.unconditional.embeds)
    else:
        expected = pipe.encode_prompt(PROMPTS, device="cpu")
        empty = condition.unconditional
        found = (condition.embeds, empty.embeds, condition.pooled, empty.pooled)
        assert condition.time_ids.tolist() == empty.time_ids.tolist() == [[64, 64, 0, 0, 64, 64]] * 3
        assert (empty.embeds == 0).all() == zeros
    model._zeros_for_empty = True
    for ours_, theirs_ in zip(found, expected, strict=True):
        torch.testing.assert_close(ours_, theirs_, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_no_empty_prompt_without_guidance(models: dict[str, LatentModel], scale: float) -> None:
    assert models["sdxl"].encode_prompts(["a"], scale).branches == 1


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_a_prompt_and_an_image_do_not_depend_on_their_batch(models: dict[str, LatentModel], kind: str) -> None:
    model, spec = models[kind], TextSpec(prompts="", guidance_scale=7.5)
    together = model.encode_prompts([f"number {i}" for i in range(model.micro_batch + 3)], 7.5)
    alone = model.encode_prompts([f"number {model.micro_batch + 1}"], 7.5)
    assert torch.equal(together.embeds[-2], alone.embeds[0])
    if alone.pooled is not None and together.pooled is not None:
        assert torch.equal(together.pooled[-2], alone.pooled[0])

    def sample(images: list[int]) -> Tensor:
        condition = model.encode_prompts([PROMPTS[i] for i in images], 7.5)
        schedule = model.noise_schedule(4, spec)
        return run_chain(model, schedule, Method(), ImageStreams(3, images), condition)[0]

    batch = sample([0, 1, 2])
    assert furthest(sample([1]), batch[1:2]) < 1e-5
    assert not torch.allclose(batch[0], batch[1], atol=1.0)


@dataclass(frozen=True)
class Guides(Method):
    """Takes the gradient of the decoded estimate's brightness at every step."""

    def guides(self, index: int, schedule: Any) -> bool:
        return True

    def correct(self, step: StepContext) -> Tensor:
        images = step.decode(step.x0_hat)
        gradient = step.gradient(images, torch.ones_like(images))
        step.memory.setdefault("gradients", []).append(gradient)
        return 0.05 * gradient / gradient.abs().amax(dim=(1, 2, 3), keepdim=True)


@pytest.fixture
def saving(folders: dict[str, Path]) -> dict[str, LatentModel]:
    """Models that recompute activations, as real sizes do."""
    opened = {kind: load_latent(f"latent:{folder}") for kind, folder in folders.items()}
    for model in opened.values():
        model.save_memory()
    return opened


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_guided_chains_leave_parameters_without_gradient(models: Any, saving: Any, kind: str) -> None:
    def guided(model: LatentModel) -> tuple[Tensor, Any]:
        schedule = model.noise_schedule(2, TextSpec(prompts="", guidance_scale=5.0, spacing="trailing"))
        condition = model.encode_prompts(PROMPTS[:2], 5.0)
        return run_chain(model, schedule, Guides(), ImageStreams(3, range(2)), condition)

    (plain, passes), (recomputed, _) = guided(models[kind]), guided(saving[kind])
    assert passes == {"denoiser_forward": 4, "denoiser_backward": 4, "decoder_forward": 2}
    assert furthest(recomputed, plain) < 1e-4
    for part in (models[kind]._unet, models[kind]._vae, *(tower.encoder for tower in models[kind]._prompts.towers)):
        assert all(p.grad is None and not p.requires_grad for p in part.parameters())


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_recomputed_gradient_is_the_gradient(models: Any, saving: Any, kind: str) -> None:
    """Bit for bit; of one image, for more are decoded in another batch where memory is saved."""
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    timestep, gradients = torch.tensor([500]), []
    for model in (models[kind], saving[kind]):
        output = model.decode(model.predict(x, timestep, model.encode_prompts(PROMPTS[:1], 5.0)))
        gradients.append(torch.autograd.grad(output.square().sum(), x)[0])
    assert gradients[0].abs().max() > 1e-3
    assert torch.equal(gradients[1], gradients[0])
    assert saving[kind]._unet.is_gradient_checkpointing
    assert not models[kind]._unet.is_gradient_checkpointing


def test_gradient_of_the_whole_chain_against_differences(fine: Any) -> None:
    model, _ = fine["sdxl"]
    condition, timestep = model.encode_prompts(PROMPTS[:1], 5.0), torch.tensor([500])
    generator = torch.Generator().manual_seed(2)
    x, direction = (torch.randn(1, 4, 8, 8, dtype=torch.float64, generator=generator) for _ in range(2))

    def energy(at: Tensor) -> Tensor:
        return model.decode(model.predict(at, timestep, condition)).square().sum()

    leaf = x.clone().requires_grad_()
    slope = float((torch.autograd.grad(energy(leaf), leaf)[0] * direction).sum())
    h = 1e-5
    assert slope == pytest.approx(float(energy(x + h * direction) - energy(x - h * direction)) / (2 * h), rel=1e-5)


def edited(folder: Path, target: Path, file: str, **changes: Any) -> Path:
    """A copy of a pipeline with other settings."""
    shutil.copytree(folder, target)
    path = target / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return target


def test_v_prediction_becomes_noise(folders: dict[str, Path], models: Any, tmp_path: Path) -> None:
    changed = edited(folders["sd"], tmp_path / "v", "scheduler/scheduler_config.json", prediction_type="v_prediction")
    model, x, timesteps = load_latent(f"latent:{changed}"), torch.randn(2, 4, 8, 8), torch.tensor([981, 41])
    condition = model.encode_prompts(PROMPTS[:2], 7.5)
    v, eps = models["sd"].predict(x, timesteps, condition), model.predict(x, timesteps, condition)
    scheduler = DDIMScheduler.from_pretrained(changed / "scheduler")
    scheduler.set_timesteps(50)
    for row, timestep in enumerate(timesteps):
        alpha = scheduler.alphas_cumprod[timestep]
        x0 = (x[row] - (1 - alpha).sqrt() * eps[row]) / alpha.sqrt()
        expected = scheduler.step(v[row], int(timestep), x[row]).pred_original_sample
        torch.testing.assert_close(x0, expected, rtol=1e-4, atol=1e-4)


def test_bfloat16_stays_near_and_states_stay_float32(folders: dict[str, Path], models: Any) -> None:
    model = load_latent(f"latent:{folders['sdxl']}", dtype="bfloat16")
    x, timestep = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500, 500])
    condition: TextCondition = model.encode_prompts(PROMPTS[:2], 1.0)
    coarse, exact = (m.predict(x, timestep, condition) for m in (model, models["sdxl"]))
    assert coarse.dtype == model.decode(x).dtype == condition.embeds.dtype == torch.float32
    assert 1e-4 < (coarse - exact).norm() / exact.norm() < 0.05
    assert (model._unet.dtype, model._vae.dtype) == (torch.bfloat16, torch.float32)  # SDXL's force_upcast
    assert load_latent(f"latent:{folders['sd']}", dtype="bfloat16")._vae.dtype == torch.bfloat16
    assert torch.equal(model.decode(x), models["sdxl"].decode(x))
