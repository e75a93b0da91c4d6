"""Every text-to-image method on Stable Diffusion and SDXL of a few channels, through the one loop."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from minoritybench.baselines.cads import Cads
from minoritybench.baselines.ddim import Ddim
from minoritybench.baselines.jepa import Jepa
from minoritybench.baselines.minorityprompt import MinorityPrompt
from minoritybench.baselines.sgms import Sgms
from tiny_pipelines import tiny_sd, tiny_sdxl
from torch import Tensor
from toy_encoders import LayerNormEncoder

from minoritybench.chained import Chained
from minoritybench.diffusion.latent.loading import load_latent
from minoritybench.diffusion.latent.model import LatentModel
from minoritybench.diffusion.loop import run_chain
from minoritybench.diffusion.schedule import Schedule
from minoritybench.diffusion.step import Method, StepContext
from minoritybench.perceptual import euclidean
from minoritybench.records import TextSpec
from minoritybench.rng import ImageStreams

PROMPTS = ["a cat", "seven!", "a dog"]
SPECS = {
    "sd": TextSpec(prompts="", guidance_scale=7.5),
    "sdxl": TextSpec(prompts="", guidance_scale=1.0, spacing="trailing"),
}
KINDS = pytest.mark.parametrize("kind", ["sd", "sdxl"])
CODE = {**Jepa.presets["official-code"], "schedule": "constant"}
CONSTANT = {"interval": 1, "schedule": "constant"}
METHODS: dict[str, Any] = {
    "cads": Cads(),
    "sgms": Sgms(w=0.3, distance="l2", **CONSTANT),
    "sgms, conditional and before": Sgms(
        w=0.3, distance="l2", branch="conditional", level="annealed", placement="before", **CONSTANT
    ),
    "minorityprompt": MinorityPrompt(iterations=2, lr=0.1, t_lo=0.0),
    "minorityprompt, code": MinorityPrompt(iterations=1, t_lo=0.5, **MinorityPrompt.presets["official-code"]),
    "jepa": Jepa(eta=0.3, **CONSTANT),
    "jepa, code": Jepa(eta=0.3, **{**CODE, "interval": 1}),
    "cads+jepa": Chained({"cads": Cads(), "jepa": Jepa(eta=0.3, **CONSTANT)}),
}


class SmallEyes(LayerNormEncoder):
    """Sees images at an eighth of their size; notes how it was called."""

    def __init__(self) -> None:
        super().__init__(192, 12)
        self.autocast: set[tuple[bool, torch.dtype]] = set()
        self.to(torch.float64)

    def to(self, dtype: torch.dtype) -> SmallEyes:
        self.body, self.norm = self.body.to(dtype), self.norm.to(dtype)
        return self

    def prepare(self, images: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(images, 8).to(self.norm.weight.dtype)

    def __call__(self, prepared: Tensor) -> Tensor:
        self.autocast.add((torch.is_autocast_enabled("cpu"), prepared.dtype))
        return super().__call__(prepared)


@dataclass(frozen=True)
class Float64Start(Method):
    """No hook but a float64 start."""

    def initial(self, streams: ImageStreams, shape: tuple[int, ...], schedule: Schedule) -> tuple[Tensor, int]:
        return streams.normal(shape, "initial").double(), schedule.steps - 1


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {"sd": tiny_sd(root / "sd"), "sdxl": tiny_sdxl(root / "sdxl")}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, LatentModel]:
    return {kind: load_latent(f"latent:{folder}") for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def fine(folders: dict[str, Path]) -> dict[str, LatentModel]:
    return {kind: load_latent(f"latent:{folder}", dtype="float64") for kind, folder in folders.items()}


def resources() -> dict[str, Any]:
    return {"distance:l2": euclidean, "encoder": SmallEyes()}


def drawn(model: LatentModel, kind: str, method: Any, images: tuple[int, ...] = (0, 1)) -> tuple[Tensor, Counter[str]]:
    """Three-step chains."""
    labels = model.encode_prompts([PROMPTS[i] for i in images], SPECS[kind].guidance_scale)
    chain = model.noise_schedule(3, SPECS[kind])
    return run_chain(model, chain, method, ImageStreams(5, images), labels, resources=resources())


def step_of(model: LatentModel, kind: str, index: int = 1, images: tuple[int, ...] = (0, 1)) -> StepContext:
    """A step whose network has been evaluated with its graph, in float64."""
    labels = model.encode_prompts([PROMPTS[i] for i in images], SPECS[kind].guidance_scale)
    streams = ImageStreams(5, images)
    x_t = streams.normal(model.state_shape, "state").double()
    chain = model.noise_schedule(3, SPECS[kind])
    step = StepContext(x_t, index, chain, labels, model, streams, resources(), Counter())
    with torch.enable_grad():
        return step.evaluated(labels)


@KINDS
def test_neutral_settings_are_ddim_bit_for_bit(models: dict[str, LatentModel], kind: str) -> None:
    plain, passes = drawn(models[kind], kind, Ddim())
    for method in (
        Cads(tau1=1.0, tau2=1.0),
        MinorityPrompt(iterations=0, t_lo=0.0, keep=True),
        Sgms(w=0.0, distance="l2", branch="conditional", placement="before"),
        Jepa(eta=0.0, interval=1),
        Jepa(eta=0.0, **{**CODE, "interval": 1}),
    ):
        latents, cost = drawn(models[kind], kind, method)
        assert torch.equal(latents, plain), method
        assert cost == passes


@KINDS
@pytest.mark.parametrize("name", METHODS)
def test_methods_run_move_and_do_not_feel_their_neighbours(fine: dict[str, LatentModel], kind: str, name: str) -> None:
    model = fine[kind]
    method = Chained({"start": Float64Start(), "method": METHODS[name]})
    both, _ = drawn(model, kind, method)
    alone, _ = drawn(model, kind, method, (1,))
    plain, _ = drawn(model, kind, Chained({"start": Float64Start()}))
    assert both.isfinite().all()
    assert all((row - other).abs().max() > 1e-6 for row, other in zip(both, plain, strict=True))
    assert torch.allclose(both[1], alone[0], rtol=1e-6, atol=1e-8)
    networks = [model._unet, model._vae, *(tower.encoder for tower in model._prompts.towers)]
    assert all(p.grad is None and not p.requires_grad for network in networks for p in network.parameters())


def test_passes_of_guidance(models: dict[str, LatentModel]) -> None:
    """Two of three steps, both branches; the encoder's are those of pixels."""
    _, passes = drawn(models["sd"], "sd", METHODS["jepa"])
    cost = {kind: count for kind, count in passes.items() if not kind.startswith("encoder_")}
    assert cost == {"denoiser_forward": 6, "denoiser_backward": 4, "decoder_forward": 2, "decoder_backward": 2}


def test_guided_steps_of_the_published_chains(models: dict[str, LatentModel]) -> None:
    """By step number: 0 is the first step, of most noise."""
    long = models["sd"].noise_schedule(50, SPECS["sd"])
    short = models["sdxl"].noise_schedule(4, SPECS["sdxl"])
    assert long.timesteps[::-1][:2] == (981, 961)
    assert short.timesteps[::-1] == (999, 749, 499, 249)

    def numbers(chain: Schedule, **settings: Any) -> list[int]:
        last = chain.steps - 1
        return sorted(last - index for index in range(chain.steps) if Jepa(eta=1.0, **settings).active(index, chain))

    assert numbers(long, gate="code") == list(range(12, 49, 3))
    assert numbers(long) == list(range(11, 48, 3))
    assert numbers(short, interval=1, gate="code") == numbers(short, interval=1) == [1, 2, 3]


@KINDS
def test_the_largest_entry_of_a_step_is_eta(fine: dict[str, LatentModel], kind: str) -> None:
    delta = Jepa(eta=0.06, interval=1, tau=1.0, schedule="constant").correct(step_of(fine[kind], kind))
    assert delta is not None
    assert torch.allclose(delta.abs().flatten(1).amax(dim=1), torch.full((2,), 0.06).double())
    moved = Sgms(w=0.3, distance="l2", **CONSTANT).correct(step_of(fine[kind], kind))
    assert moved is not None
    assert torch.allclose(moved.abs().flatten(1).amax(dim=1), torch.full((2,), 0.3).double())


def score(step: StepContext, x_t: Tensor) -> Tensor:
    """sum_{i<=3} log sigma_i at decoded estimates of any states `(B, ...)` of the step's first image, by SVD."""
    encoder = step.resources["encoder"]
    labels = step.model.encode_prompts([PROMPTS[0]] * len(x_t), SPECS["sd"].guidance_scale)  # type: ignore[attr-defined]
    bar = float(step.schedule.alphas_cumprod[step.index])
    eps = step.model.predict(x_t, torch.full((len(x_t),), step.timestep), labels)
    prepared = encoder.prepare(step.model.decode((x_t - (1 - bar) ** 0.5 * eps) / bar**0.5))
    prepared = prepared if prepared.requires_grad else prepared.requires_grad_(True)
    z = encoder(prepared)
    rows = [torch.autograd.grad(z[:, i].sum(), prepared, create_graph=True)[0].flatten(1) for i in range(12)]
    return torch.linalg.svdvals(torch.stack(rows, dim=1))[:, :3].log().sum(dim=1)


def test_whole_gradient_by_central_differences_and_in_one_stage(fine: dict[str, LatentModel]) -> None:
    """Latent, both branches of the U-Net, VAE, encoder with LayerNorm."""
    step = step_of(fine["sd"], "sd", images=(0,))
    step.resources["encoder"].null_directions = None  # those of LayerNorm are null but for its epsilon
    gradient = Jepa(k=3, p=9, q=3, clamp_x0=False, normalise="none")._gradient(step)
    leaf = step.x_t.detach().requires_grad_(True)
    (one_stage,) = torch.autograd.grad(score(step, leaf).sum(), leaf)
    assert (gradient - one_stage).norm() / one_stage.norm() < 1e-9
    along = torch.linalg.qr(torch.randn(256, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).Q.T
    shifts = 1e-4 * along.view(8, *step.x_t.shape[1:])
    here = step.x_t.detach()
    rise = (score(step, here + shifts) - score(step, here - shifts)).detach() / 2e-4
    slopes = along @ gradient.flatten()
    assert (slopes - rise).norm() / rise.norm() < 1e-4


def test_encoder_is_out_of_autocast_in_its_own_precision(models: dict[str, LatentModel]) -> None:
    step = step_of(models["sdxl"], "sdxl")
    step.resources["encoder"].to(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        delta = Jepa(interval=1, tau=1.0).correct(step.evaluated(step.labels))
    assert delta is not None
    assert delta.abs().max() > 0
    assert step.resources["encoder"].autocast == {(False, torch.float32)}


@pytest.mark.parametrize("placement", ["after", "before"])
def test_an_image_without_a_finite_gradient_is_not_guided(fine: dict[str, LatentModel], placement: Any) -> None:
    class Torn(SmallEyes):
        """Not finite at one image."""

        bad = 0.0

        def __call__(self, prepared: Tensor) -> Tensor:
            broken = (prepared.flatten(1)[:, :1] - self.bad).abs() < 1e-9
            return torch.where(broken, torch.nan, 1.0) * super().__call__(prepared)

    method = Jepa(eta=0.5, tau=1.0, clamp_x0=False, placement=placement, **CONSTANT)

    def shift(step: StepContext) -> Tensor:
        moved = method.correct(step) if placement == "after" else method.pre_step(step) - step.x_t
        assert moved is not None
        return moved.detach()

    whole, torn = step_of(fine["sdxl"], "sdxl"), step_of(fine["sdxl"], "sdxl")
    encoder = Torn()
    encoder.bad = float(encoder.prepare(torn.decode(torn.x0_hat.detach())).flatten(1)[0, 0])
    torn.resources["encoder"] = encoder  # type: ignore[index]
    delta = shift(torn)
    assert torch.equal(delta[0], torch.zeros_like(delta[0]))
    assert torch.allclose(delta[1], shift(whole)[1])
