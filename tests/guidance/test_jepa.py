"""What `Jepa.correct` adds to x_{t-1}, against finite differences of an independently written score of x_t."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from minoritybench.baselines.jepa import Jepa
from torch import Tensor
from toy_encoders import LayerNormEncoder

from minoritybench.diffusion.loop import run_chain
from minoritybench.diffusion.schedule import make_schedule
from minoritybench.diffusion.step import StepContext
from minoritybench.methods import configure
from minoritybench.records import load_benchmark
from minoritybench.rng import ImageStreams

SHAPE = (3, 3, 3)
START = 5  # the last six steps of 50: those with t = 6 and t = 3 are guided
WHOLE = {
    "eta": 1.7,
    "k": 3,
    "p": 9,
}  # k + p = d: the projection spans every direction, so that nothing is projected out


class SmoothModel:
    """A float64 denoiser that mixes all pixels: eps = tanh(W x_t + timestep / 1000)."""

    name, weights_sha256, dtype, schedule, train_steps = "smooth", "", "float64", "cosine", 1000
    state_shape: tuple[int, ...] = SHAPE
    num_classes = None
    micro_batch, threads = 2, 1

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.weight = torch.randn(27, 27, generator=generator, dtype=torch.float64) / 27**0.5

    def predict(self, x_t: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        shift = timestep.to(torch.float64).view(-1, 1) / 1000
        return torch.tanh(x_t.flatten(1) @ self.weight.T + shift).view_as(x_t)

    def decode(self, x0: Tensor) -> Tensor:
        return (x0 + 1) / 2


class ScaledEncoder(LayerNormEncoder):
    """With a preprocessing that is not the identity."""

    def prepare(self, images: Tensor) -> Tensor:
        return (images - 0.4) / 0.3


@dataclass(frozen=True)
class RecordingJepa(Jepa):
    """Starts from a given float64 state and keeps what `correct` saw and said."""

    seen: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)

    def initial(self, streams: ImageStreams, shape: tuple[int, ...], schedule: Any) -> tuple[Tensor, int]:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(2, *shape, generator=generator, dtype=torch.float64), START

    def correct(self, step: StepContext) -> Tensor | None:
        delta = super().correct(step)
        if delta is not None:
            self.seen.append((step.index, step.x_t.detach().clone(), delta.clone()))
        return delta


CHAIN = make_schedule("cosine", "50")


def tables(index: int) -> tuple[float, float]:
    """alpha_bar, and the posterior variance from it and the alpha_bar of the step before."""
    now, before = CHAIN.alphas_cumprod[index], CHAIN.alphas_cumprod[index - 1]
    return float(now), float((1 - now / before) * (1 - before) / (1 - now))


def score(x_t: Tensor, index: int, *, clamp: bool) -> Tensor:
    """sum_{i<=3} log sigma_i of the encoder's Jacobian at the prepared, decoded denoised estimates of `(B, ...)`."""
    model, encoder = SmoothModel(), ScaledEncoder(27, 12)
    bar = tables(index)[0]
    eps = model.predict(x_t, torch.full((len(x_t),), CHAIN.timesteps[index]), None)
    image = ((x_t - (1 - bar) ** 0.5 * eps) / bar**0.5 + 1) / 2
    prepared = (((image.clamp(0, 1) if clamp else image) - 0.4) / 0.3).requires_grad_(True)
    z = encoder(prepared)
    rows = [torch.autograd.grad(z[:, i].sum(), prepared, retain_graph=True)[0].flatten(1) for i in range(12)]
    return torch.linalg.svdvals(torch.stack(rows, dim=1))[:, :3].log().sum(dim=1)


def finite_differences(x_t: Tensor, index: int, *, clamp: bool, step: float = 1e-5) -> Tensor:
    """Central differences of the score of one x_t."""
    shifts = step * torch.eye(x_t.numel(), dtype=torch.float64).view(-1, *x_t.shape)
    rise = score(x_t + shifts, index, clamp=clamp) - score(x_t - shifts, index, clamp=clamp)
    return (rise / (2 * step)).view_as(x_t)


@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize("normalise", ["max", "none"])
@pytest.mark.parametrize("schedule", ["variance", "constant"])
def test_correction_is_minus_eta_times_scale_times_the_slope_of_the_score_in_x_t(
    clamp: bool, normalise: str, schedule: str
) -> None:
    method = RecordingJepa(**WHOLE, clamp_x0=clamp, normalise=normalise, schedule=schedule)
    run_chain(
        SmoothModel(),
        CHAIN,
        method,
        ImageStreams(0, range(2)),
        None,
        resources={"encoder": ScaledEncoder(27, 12)},
    )
    assert [index for index, _, _ in method.seen] == [5, 2]
    for index, x_t, delta in method.seen:
        assert ((x_t + 1) / 2 < -0.05).any()  # so that clamping the estimate matters
        for image, moved in zip(x_t, delta, strict=True):
            slope = finite_differences(image, index, clamp=clamp)
            if normalise == "max":
                slope = slope / slope.abs().max()
            expected = -1.7 * (tables(index)[1] if schedule == "variance" else 1.0) * slope
            assert (moved - expected).norm() / expected.norm() < 1e-5


def test_paper_preset_has_exactly_these_parameters() -> None:
    """Algorithm 1 with the row of CelebA 64 and ImageNet 256: raw gradient, no clamp, the rest as by default."""
    paper = {"eta": 2.0, "tau": 0.8, "interval": 3, "k": 3, "p": 2, "q": 2}
    paper |= {"normalise": "none", "schedule": "variance", "clamp_x0": False}
    neutral = load_benchmark("digits").model_copy(update={"methods": {}})
    configured = configure("jepa", {"preset": "paper"}, neutral)
    assert configured.params == paper
    assert configured.preset == "paper"
    assert configure("jepa", {}, neutral).params == {**paper, "normalise": "max", "clamp_x0": True}
    assert configure("jepa", {"preset": "paper"}, load_benchmark("digits")).params == {**paper, "eta": 1.0}
