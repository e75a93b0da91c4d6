"""The sampling loop against hand-made models whose answers are known."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from minoritybench.baselines.adm import Adm
from minoritybench.baselines.bns import BoostAndSkip
from minoritybench.baselines.ddim import Ddim
from minoritybench.baselines.jepa import Jepa
from torch import Tensor
from toy_encoders import PlainEncoder

from minoritybench.diffusion.loop import run_chain
from minoritybench.diffusion.schedule import make_schedule
from minoritybench.diffusion.step import StepContext, predict
from minoritybench.errors import BadInputError
from minoritybench.rng import ImageStreams


class ConstantX0:
    """A denoiser that always finds the same clean image, whatever the state: eps = (x_t - sqrt(a) x0) / sqrt(1 - a)."""

    name, weights_sha256, dtype, schedule, train_steps = "constant", "", "float32", "cosine", 1000
    state_shape: tuple[int, ...] = (1, 8, 8)
    num_classes = None
    micro_batch, threads = 4, 1
    clip_x0 = True

    def __init__(self, x0: float, variance_fraction: float | None = None) -> None:
        self.x0, self.fraction = x0, variance_fraction
        self.seen: list[int] = []
        self.table = make_schedule("cosine", "1000").alphas_cumprod

    def predict(self, x_t: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        self.seen.append(int(timestep[0]))
        alpha_bar = float(self.table[int(timestep[0])])
        eps = (x_t - alpha_bar**0.5 * self.x0) / (1 - alpha_bar) ** 0.5
        return eps if self.fraction is None else torch.cat([eps, torch.full_like(eps, self.fraction)], dim=1)

    def decode(self, x0: Tensor) -> Tensor:
        return ((x0 + 1) / 2).expand(-1, 3, -1, -1)


def run(method: Any, model: Any = None, spacing: str = "250", **options: Any) -> tuple[Tensor, Counter[str]]:
    model = ConstantX0(0.3) if model is None else model
    streams = ImageStreams(0, range(4))
    return run_chain(model, make_schedule("cosine", spacing), method, streams, None, **options)


@pytest.mark.parametrize("method", [Adm(), Ddim(), Ddim(stochasticity=1.0), BoostAndSkip()])
def test_constant_denoiser_ends_at_its_image(method: Any) -> None:
    x, _ = run(method)
    assert torch.allclose(x, torch.full_like(x, 0.3), atol=1e-4)


def test_estimate_is_clipped_in_the_transition() -> None:
    clipped, _ = run(Adm(), ConstantX0(1.7))
    latents = ConstantX0(1.7)
    latents.clip_x0 = False
    free, _ = run(Adm(), latents)
    assert torch.allclose(clipped, torch.ones_like(clipped), atol=1e-4)
    assert torch.allclose(free, torch.full_like(free, 1.7), atol=1e-3)


def test_network_receives_original_timesteps_and_nfe_is_counted() -> None:
    model = ConstantX0(0.0)
    _, passes = run(Adm(), model)
    assert model.seen[:2] == [999, 995]
    assert model.seen[-1] == 0
    assert passes == {"denoiser_forward": 250}
    skipping = ConstantX0(0.0)
    _, passes = run(BoostAndSkip(gamma=4.0, skip=3), skipping)
    assert skipping.seen[0] == 987
    assert passes == {"denoiser_forward": 247}


BOOST, PLAIN = BoostAndSkip(gamma=4.0, skip=3), BoostAndSkip(gamma=1.0, skip=0)
UNSKIPPED = BoostAndSkip(gamma=4.0, skip=0)


@pytest.mark.parametrize(
    ("schedule", "method", "expected"),
    [
        ("cosine", BOOST, (4.0, 1.63, 1.10, 0.98)),
        ("cosine", PLAIN, (1.0, 0.998, 0.989, 0.953)),
        ("cosine", UNSKIPPED, (1.00, 0.998, 0.989, 0.953)),  # one unskipped step erases any boost
        ("linear", UNSKIPPED, (3.58, 2.89, 1.83, 1.19)),
    ],
)
def test_boost_survives_on_a_cosine_chain_only_because_steps_are_skipped(
    schedule: str, method: Any, expected: tuple[float, ...]
) -> None:
    """Standard deviation of the state before indices 246, 240, 225 and 200 of 250, the clean image constant at 0."""
    states = _states(method, schedule)
    for index, deviation in zip((246, 240, 225, 200), expected, strict=True):
        assert float(states[index].std()) == pytest.approx(deviation, rel=0.02)


def _states(method: Any, name: str) -> dict[int, Tensor]:
    """x_t before the step at each index, over 128 images of the constant-zero denoiser."""
    seen: list[Tensor] = []

    class Recorder(ConstantX0):
        def predict(self, x_t: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
            seen.append(x_t.clone())
            return super().predict(x_t, timestep, labels)

    model = Recorder(0.0)
    model.table = make_schedule(name, "1000").alphas_cumprod
    run_chain(model, make_schedule(name, "250"), method, ImageStreams(0, range(128)), None)
    return {len(seen) - 1 - place: x_t for place, x_t in enumerate(seen)}


def test_learned_range_variance_spans_posterior_to_beta() -> None:
    schedule = make_schedule("cosine", "250")
    x = torch.zeros(1, 1, 8, 8)
    for index in (0, 1, 125):
        floor = schedule.posterior_variance[max(index, 1)]
        for fraction, expected in ((-1.0, floor), (1.0, schedule.betas[index])):
            prediction = predict(ConstantX0(0.0, fraction), schedule, x, index, None, Counter())
            assert prediction.log_variance.exp()[0, 0, 0, 0].item() == pytest.approx(expected, rel=1e-5)
            assert prediction.eps.shape == x.shape


def test_guided_steps_of_the_paper() -> None:
    long, short = make_schedule("cosine", "250"), make_schedule("cosine", "50")
    guided = [index for index in range(250) if Jepa().guides(index, long)]
    assert (len(guided), guided[0], guided[-1]) == (66, 2, 197)
    assert sum(Jepa().guides(index, short) for index in range(50)) == 13


def quadratic_encoder() -> PlainEncoder:
    return PlainEncoder(lambda x: x[:, 0].flatten(1) ** 2 / 2)


def test_guidance_moves_by_at_most_eta_times_variance_and_against_the_score() -> None:
    class Recorder(Jepa):
        deltas: ClassVar[list[tuple[Tensor, Tensor]]] = []

        def correct(self, step: StepContext) -> Tensor | None:
            delta = super().correct(step)
            if delta is not None:
                self.deltas.append((delta, step.variance))
                assert step.x0_hat.requires_grad
                assert not step.mean.requires_grad
            return delta

    _, passes = run(Recorder(eta=2.0), spacing="50", model=LinearModel(), resources={"encoder": quadratic_encoder()})
    assert len(Recorder.deltas) == 13
    for delta, variance in Recorder.deltas:
        peak = (delta.abs() / (2.0 * variance)).flatten(1).amax(dim=1)
        assert torch.allclose(peak, torch.ones(4), atol=1e-5)
    assert passes["denoiser_forward"] == 50
    assert passes["denoiser_backward"] == 13


class LinearModel(ConstantX0):
    """eps = 0.1 x_t, so that the estimate depends on the state."""

    def __init__(self) -> None:
        super().__init__(0.0)

    def predict(self, x_t: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        return 0.1 * x_t


def test_neutral_settings_equal_ancestral_sampling_bitwise() -> None:
    plain, _ = run(Adm(), LinearModel())
    for method in (Jepa(eta=0.0), BoostAndSkip(gamma=1.0, skip=0), Jepa(eta=2.0, tau=0.0)):
        x, _ = run(method, LinearModel(), resources={"encoder": quadratic_encoder()})
        assert torch.equal(x, plain)


def test_guidance_by_a_linear_encoder_changes_nothing() -> None:
    encoder = PlainEncoder(lambda x: x.flatten(1)[:, :6])
    guided, _ = run(Jepa(), LinearModel(), resources={"encoder": encoder})
    plain, _ = run(Adm(), LinearModel())
    assert torch.equal(guided, plain)


def test_every_hook_is_called_and_plain_classes_work() -> None:
    @dataclass
    class Everything:
        transition = "ddim"

        def initial(self, streams: Any, shape: tuple[int, ...], schedule: Any) -> tuple[Tensor, int]:
            return torch.zeros(4, *shape), 3

        def condition(self, step: StepContext, labels: Tensor | None) -> Tensor | None:
            calls["condition"] += 1
            return labels

        def pre_step(self, step: StepContext) -> Tensor:
            calls["pre_step"] += 1
            assert torch.allclose(step.denoise(step.x_t), torch.full_like(step.x_t, 0.3), atol=1e-4)
            return step.x_t + 0.1

        def eps_shift(self, step: StepContext) -> Tensor:
            calls["eps_shift"] += 1
            return torch.zeros_like(step.x_t)

        def correct(self, step: StepContext) -> Tensor | None:
            calls["correct"] += 1
            return torch.full_like(step.x_t, 0.5) if step.index == 0 else None

    calls: Counter[str] = Counter()
    x, _ = run(Everything(), spacing="ddim50")
    assert calls == {"condition": 4, "pre_step": 4, "eps_shift": 4, "correct": 4}
    assert torch.allclose(x, torch.full_like(x, 0.8), atol=1e-4)


def test_eps_shift_is_classifier_guidance_in_ddim_form() -> None:
    """Shifting the noise by -sqrt(1 - a) g moves the estimate by (1 - a)/sqrt(a) g."""

    @dataclass
    class Shifted:
        transition = "ddim"

        def eps_shift(self, step: StepContext) -> Tensor:
            alpha_bar = float(step.schedule.alphas_cumprod[step.index])
            return torch.full_like(step.x_t, -((1 - alpha_bar) ** 0.5) * 0.7)

    schedule = make_schedule("cosine", "ddim50")
    x, _ = run(Shifted(), spacing="ddim50")
    alpha_bar = float(schedule.alphas_cumprod[0])
    assert torch.allclose(x, torch.full_like(x, 0.3 + (1 - alpha_bar) / alpha_bar**0.5 * 0.7), atol=1e-5)


def test_unknown_transition_is_named() -> None:
    @dataclass
    class Odd:
        transition = "leap"

    with pytest.raises(BadInputError, match="leap"):
        run(Odd())


def test_skipping_the_whole_chain_is_refused() -> None:
    with pytest.raises(BadInputError, match="skip=50"):
        run(BoostAndSkip(skip=50), spacing="50")
