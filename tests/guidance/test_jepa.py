"""What `Jepa.correct` adds to x_{t-1}, against finite differences of an independently written score of x_t."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from minoritybench.baselines.adm import Adm
from minoritybench.baselines.jepa import Jepa
from torch import Tensor
from toy_denoisers import SHAPE, SmoothModel
from toy_encoders import LayerNormEncoder

import minoritybench
from minoritybench.diffusion.embedded import load_digits_ddpm
from minoritybench.diffusion.loop import run_chain
from minoritybench.diffusion.schedule import make_schedule
from minoritybench.diffusion.step import StepContext
from minoritybench.errors import BadInputError
from minoritybench.methods import configure
from minoritybench.records import load_benchmark
from minoritybench.rng import ImageStreams

START = 5  # the last six steps of 50: those with t = 6 and t = 3 are guided
WHOLE = {
    "eta": 1.7,
    "k": 3,
    "p": 9,
}  # k + p = d: the projection spans every direction, so that nothing is projected out


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


def test_presets_have_exactly_these_parameters() -> None:
    """Algorithm 1 with the row of CelebA 64 and ImageNet 256; the published code's choices; ours."""
    row = {"eta": 2.0, "tau": 0.8, "interval": 3, "k": 3, "p": 2, "q": 2, "warm_q": 1, "gradient": "dual"}
    paper = row | {"normalise": "none", "schedule": "variance", "clamp_x0": False, "warm_start": False}
    paper |= {"range_finder": "rsvd", "products": "exact", "placement": "after", "gate": "paper"}
    paper |= {"peak_floor": 0.0, "log_floor": 1e-6}
    code = row | {"normalise": "max", "schedule": "posterior-variance", "clamp_x0": True, "warm_start": False}
    code |= {"range_finder": "rsvd", "products": "finite-difference", "placement": "before", "gate": "code"}
    code |= {"peak_floor": 1e-8, "log_floor": 1e-8}
    ours = {**paper, "normalise": "max", "clamp_x0": True, "warm_start": True, "range_finder": "lanczos"}
    neutral = load_benchmark("digits").model_copy(update={"methods": {}})
    for preset, params in {"paper": paper, "official-code": code, "reference": ours}.items():
        configured = configure("jepa", {"preset": preset}, neutral)
        assert configured.params == params
        assert configured.preset == preset
    assert configure("jepa", {"preset": "paper"}, load_benchmark("digits")).params == {**paper, "eta": 1.0}


def test_gates_of_paper_and_code_on_250_steps() -> None:
    long = make_schedule("cosine", "250")
    paper = [i for i in range(250) if Jepa().active(i, long)]
    code = [i for i in range(250) if Jepa(gate="code").active(i, long)]
    assert (len(paper), paper[0], paper[-1]) == (66, 2, 197)
    assert (len(code), code[0], code[-1]) == (67, 0, 198)


def published(**settings: Any) -> Jepa:
    return Jepa(**{**Jepa.presets["official-code"], "k": 3, "p": 9, **settings})


@pytest.mark.parametrize("schedule", ["posterior-variance", "variance"])
def test_official_code_moves_x_t_down_the_score_before_the_step(schedule: Any) -> None:
    index, x_t = 6, torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = StepContext(
        x_t, index, CHAIN, None, SmoothModel(), ImageStreams(0, range(2)), {"encoder": ScaledEncoder(27, 12)}, Counter()
    )
    method = published(eta=0.1, gate="paper", interval=1, schedule=schedule, clamp_x0=False)
    moved = method.pre_step(step)
    for image, delta in zip(x_t, moved - x_t, strict=True):
        slope = finite_differences(image, index, clamp=False)
        expected = -0.1 * tables(index)[1] * slope / (slope.abs().max() + 1e-8)
        assert (delta - expected).norm() / expected.norm() < 1e-3  # its products are finite differences
    assert (score(moved, index, clamp=False) < score(x_t, index, clamp=False)).all()
    assert method.correct(step) is None


def test_official_code_evaluates_the_network_again_where_it_moved_to() -> None:
    seen: list[tuple[int, bool, Tensor]] = []

    class Watched(SmoothModel):
        def predict(self, x_t: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
            seen.append((int(timestep[0]), torch.is_grad_enabled(), x_t.detach().clone()))
            return super().predict(x_t, timestep, labels)

    @dataclass(frozen=True)
    class Short(Jepa):
        def initial(self, streams: ImageStreams, shape: tuple[int, ...], schedule: Any) -> tuple[Tensor, int]:
            return torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), 2

    settings = {**Jepa.presets["official-code"], "p": 9, "clamp_x0": False}
    run_chain(
        Watched(),
        CHAIN,
        Short(**settings),
        ImageStreams(0, range(2)),
        None,
        resources={"encoder": ScaledEncoder(27, 12)},
    )
    # steps 2, 1 and 0 are numbers 47, 48 and 49 of 50: 48 is guided
    assert [(t, graph) for t, graph, _ in seen] == [
        (CHAIN.timesteps[i], graph) for i, graph in ((2, False), (1, True), (1, False), (0, False))
    ]
    assert not torch.equal(seen[1][2], seen[2][2])


@pytest.mark.parametrize("preset", ["reference", "paper", "official-code"])
def test_eta_zero_is_adm_bit_for_bit(preset: str) -> None:
    model = load_digits_ddpm("digits-ddpm")
    chain = make_schedule("cosine", "50")
    method = Jepa(**{**Jepa.presets.get(preset, {}), "eta": 0.0})
    plain, _ = run_chain(model, chain, Adm(), ImageStreams(0, range(3)), None)
    guided, _ = run_chain(model, chain, method, ImageStreams(0, range(3)), None)
    assert torch.equal(guided, plain)


def test_warm_started_chains_do_not_feel_their_neighbours() -> None:
    """The memory of a chain belongs to the image: another order and other neighbours, the same image."""
    model, encoder = load_digits_ddpm("digits-ddpm"), minoritybench.load_encoder("digits-jepa")
    chain = make_schedule("cosine", "50")
    method = Jepa(eta=1.0, clamp_x0=False)
    chains = [
        run_chain(model, chain, method, ImageStreams(0, images), None, resources={"encoder": encoder})[0]
        for images in (list(range(64)), [*range(20, 83), 5])
    ]
    assert torch.equal(chains[0][5], chains[1][63])
    assert torch.equal(chains[0][20:64], chains[1][:44])
    cold = Jepa(eta=1.0, clamp_x0=False, warm_start=False)
    other, _ = run_chain(model, chain, cold, ImageStreams(0, range(64)), None, resources={"encoder": encoder})
    assert not torch.equal(other, chains[0])


def test_unfit_settings_are_refused() -> None:
    for settings in ({"products": "finite-difference"}, {"log_floor": -1.0}, {"warm_q": -1}, {"tau": 2.0}):
        with pytest.raises(BadInputError):
            Jepa(**settings)
