"""Sehwag: both variants' gradients, saturation, bounds, class Gaussians."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from minoritybench.baselines.sehwag import (
    Sehwag,
    check_classes,
    class_gaussians,
    gaussian_hardness,
    log_second,
    shared_gaussian,
)
from scipy.stats import multivariate_normal
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from toy_denoisers import SmoothModel, step_at
from toy_guides import central_differences, states, toy_part

import minoritybench
from minoritybench.diffusion.step import StepContext
from minoritybench.errors import BadInputError
from minoritybench.methods import configure
from minoritybench.prepare import Kit, Prepared, PrepareRequest, plan_parts, prepare_parts
from minoritybench.prepare.job import prepare_command
from minoritybench.records import load_benchmark

INDEX = 10
HARDNESS, FIDELITY, OOD = "prepared:hardness", "prepared:fidelity", "prepared:ood"


def hardness_part(bands: int = 2, classes: int = 3) -> Prepared:
    generator = torch.Generator().manual_seed(5)
    mean = torch.randn(bands, classes, 6, generator=generator, dtype=torch.float64)
    lower = torch.randn(bands, classes, 6, 6, generator=generator, dtype=torch.float64).tril(-1)
    whitening = lower + torch.diag_embed(1 + torch.rand(bands, classes, 6, generator=generator, dtype=torch.float64))
    return toy_part(classes, 1, mean=mean, whitening=whitening)


def step_of(index: int = INDEX, labels: torch.Tensor | None = None, **parts: Prepared) -> StepContext:
    resources = {f"prepared:{name}": part for name, part in parts.items()}
    step = step_at(index, states(), SmoothModel(), **resources)
    step.labels = labels
    return step


def both(**settings: Any) -> tuple[StepContext, torch.Tensor]:
    step = step_of(labels=torch.tensor([2, 0]), hardness=hardness_part(), fidelity=toy_part(2, 2))
    delta = Sehwag(bands=2, **settings).correct(step)
    assert delta is not None
    return step, delta


@pytest.mark.parametrize("form", ["gaussian", "contrastive"])
def test_low_density_gradient_against_central_differences(form: str) -> None:
    step, delta = both(alpha=0.7, beta=0.0, normalise="none", hardness=form, temperature=0.3)
    part, labels = step.resources[HARDNESS], [2, 0]
    assert step.timestep < 500  # the first of two bands
    mean, whitening = part.tensors["mean"][0].numpy(), part.tensors["whitening"][0].numpy()

    def hardness(x: torch.Tensor) -> torch.Tensor:
        features = part.features(x, step.timestep, None).numpy()
        found = []
        for row, label in zip(features, labels, strict=True):
            if form == "gaussian":
                covariance = np.linalg.inv(whitening[label].T @ whitening[label])
                found.append(-multivariate_normal(mean[label], covariance).logpdf(row))
            else:
                cosine = mean @ row / np.linalg.norm(mean, axis=1) / np.linalg.norm(row)
                odds = np.exp(cosine / 0.3)
                found.append(-math.log(odds[label] / odds.sum()))
        return torch.tensor(found, dtype=torch.float64)

    expected = 0.7 * step.variance * central_differences(hardness, step.x_t.detach())
    assert (delta - expected).norm() / expected.norm() < 1e-6


def test_fidelity_gradient_and_the_sum_of_both() -> None:
    step, real = both(alpha=0.0, beta=0.4, normalise="none")
    part = step.resources[FIDELITY]

    def log_real(x: torch.Tensor) -> torch.Tensor:
        return part.logits(x, step.timestep, None).softmax(dim=1)[:, 1].log()

    expected = 0.4 * step.variance * central_differences(log_real, step.x_t.detach())
    assert (real - expected).norm() / expected.norm() < 1e-8
    _, low = both(alpha=0.7, beta=0.0, normalise="none")
    step, together = both(alpha=0.7, beta=0.4, normalise="none")
    assert torch.allclose(together, low + real, rtol=1e-12)
    assert step.passes == {"denoiser_forward": 1, "classifier_forward": 2, "classifier_backward": 2}
    assert step.resources[FIDELITY].classifier.timesteps == [[204, 204]]
    assert step.resources[HARDNESS].classifier.timesteps == [[204, 204]]


def test_out_of_distribution_gradient_is_that_of_minus_log_p_in() -> None:
    part = toy_part(2)
    step = step_of(ood=part)
    delta = Sehwag(scale=3.0).correct(step)
    assert delta is not None

    def minus_log_in(x: torch.Tensor) -> torch.Tensor:
        return -part.logits(x, step.timestep, None).softmax(dim=1)[:, 1].log()

    expected = 3.0 * step.variance * central_differences(minus_log_in, step.x_t.detach())
    assert (delta - expected).norm() / expected.norm() < 1e-8
    plain = Sehwag(scale=3.0, schedule="constant").correct(step_of(ood=part))
    assert plain is not None
    assert torch.allclose(plain * step.variance, delta)


def test_log_probability_keeps_its_slope_where_the_probability_is_one() -> None:
    logits = torch.tensor([[0.0, 40.0], [0.0, 90.0], [900.0, 0.0]], requires_grad=True)
    value = -log_second(logits)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert value.isfinite().all()
    assert float(value[2].detach()) == 900.0
    assert gradient[0, 1] == pytest.approx(-math.exp(-40), rel=1e-5)
    assert gradient[1, 1] == pytest.approx(-math.exp(-90), rel=1e-5)
    naive = -logits.softmax(dim=1)[:, 1].log()
    (flat,) = torch.autograd.grad(naive[0], logits)
    assert flat[0, 1] == 0.0  # what forming it from the probability would do


@pytest.mark.parametrize("normalise", ["max", "l2"])
def test_shift_is_bounded_by_the_weights_times_the_variance(normalise: str) -> None:
    step, delta = both(alpha=0.6, beta=0.3, normalise=normalise)
    assert (delta.abs() <= 0.9 * step.variance * (1 + 1e-12)).all()
    step, low = both(alpha=0.6, beta=0.0, normalise=normalise)
    ratio = (low / step.variance).flatten(1)
    size = ratio.abs().amax(dim=1) if normalise == "max" else ratio.norm(dim=1)
    assert torch.allclose(size, torch.full((2,), 0.6, dtype=torch.float64))


def test_the_band_follows_the_timestep() -> None:
    part = hardness_part()
    late = step_of(45, torch.tensor([2, 0]), hardness=part)
    assert late.timestep >= 500
    swapped = Prepared(part.classifier, {name: value.flip(0) for name, value in part.tensors.items()})
    method = Sehwag(bands=2, alpha=1.0, beta=0.0)
    deltas = [method.correct(step_of(45, torch.tensor([2, 0]), hardness=each)) for each in (part, swapped)]
    assert deltas[0] is not None
    assert deltas[1] is not None
    assert not torch.allclose(deltas[0], deltas[1])


def test_zero_weights_do_nothing() -> None:
    assert Sehwag(scale=0.0).correct(step_of(ood=toy_part(2))) is None
    assert Sehwag(alpha=0.0, beta=0.0).correct(step_of(labels=torch.tensor([0, 1]))) is None
    assert Sehwag(alpha=0.0, beta=0.0).needs(True) == frozenset()


def test_variant_decides_what_is_needed() -> None:
    assert Sehwag().needs(False) == {OOD}
    assert Sehwag().needs(True) == {HARDNESS, FIDELITY}
    assert Sehwag(beta=0.0).needs(True) == {HARDNESS}
    assert Sehwag(variant="ood").needs(True) == {OOD}


def test_what_a_setting_cannot_do_is_refused_before_sampling(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="add --class-conditional"):
        minoritybench.sample("sehwag", tmp_path / "s", settings={"variant": "conditional"}, n=2, seeds=(0,))
    assert not (tmp_path / "s").exists()
    Sehwag(variant="conditional").check_use(load_benchmark("digits"), True)
    with pytest.raises(BadInputError, match="is the dataset of digits") as caught:
        plan_parts(PrepareRequest("sehwag", settings=(("negatives", "digits"),)))
    assert caught.value.exit_code == 2
    plan_parts(PrepareRequest("sehwag", settings=(("negatives", "digits"),), class_conditional=True))


def test_gaussian_hardness_is_the_negative_log_density() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4000, 5, generator=generator) @ torch.randn(5, 5, generator=generator) + 2
    classes = torch.arange(4000) % 2
    features[classes == 1] *= 3
    mean, whitening = class_gaussians(features, classes, 2)
    found = gaussian_hardness(features.double() - mean[classes], whitening[classes])
    for number in (0, 1):
        own = features[classes == number].double().numpy()
        covariance = np.cov(own.T, bias=True)
        shrunk = 0.95 * covariance + 0.05 * np.trace(covariance) / 5 * np.eye(5)
        density = multivariate_normal(own.mean(axis=0), shrunk).logpdf(own)
        np.testing.assert_allclose(found[classes == number].numpy(), -density, rtol=1e-5)


def test_the_shared_gaussian_is_linear_discriminant_analysis() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 900)
    features = rng.normal(size=(900, 4)) @ rng.normal(size=(4, 4)) + classes[:, None]
    mean, whitening = shared_gaussian(torch.from_numpy(features), torch.from_numpy(classes), 3)
    pooled = LinearDiscriminantAnalysis(solver="lsqr", store_covariance=True).fit(features, classes)
    shrunk = 0.95 * pooled.covariance_ + 0.05 * np.trace(pooled.covariance_) / 4 * np.eye(4)
    np.testing.assert_allclose(mean.numpy(), pooled.means_, rtol=1e-10)
    assert whitening.shape == (1, 4, 4)
    np.testing.assert_allclose(np.linalg.inv(whitening[0].T @ whitening[0]), shrunk, rtol=1e-8)


def test_hardness_with_a_shared_covariance_is_that_of_equal_ones() -> None:
    part = hardness_part()
    one = {"mean": part.tensors["mean"], "whitening": part.tensors["whitening"][:, :1]}
    three = {**one, "whitening": one["whitening"].expand(-1, 3, -1, -1)}
    method, step = Sehwag(bands=2), step_of(labels=torch.tensor([2, 0]))
    found = [
        method.low_density(Prepared(part.classifier, tensors), step, step.x_t.detach(), 204) for tensors in (one, three)
    ]
    assert torch.equal(*found)


def test_sizes_are_limited_and_settings_of_imagenet_keep_within_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINORITYBENCH_CACHE", str(tmp_path))
    request = PrepareRequest("sehwag", settings=(("bands", 205), ("beta", 0)), class_conditional=True)
    with pytest.raises(BadInputError, match=r"10 classes in 205 bands .* --set covariance=shared"):
        prepare_parts(request)
    request = PrepareRequest("sehwag", settings=(("embedding", "adm-classifier"), ("beta", 0)), class_conditional=True)
    with pytest.raises(BadInputError, match=r"of 1000 ImageNet classes .* --set embedding=trained"):
        prepare_parts(request)
    settings = Sehwag(**load_benchmark("imagenet256").method_settings("sehwag"))
    assert (settings.covariance, settings.embedding) == ("shared", "adm-classifier")
    assert settings.bands * 512**2 * 4 < 2**24
    assert 0 < settings.images <= 200_000
    assert 0 < settings.generated <= 50_000

    class Asked:
        def images(self, *, most: int) -> range:
            assert most == 200_000
            return range(1_281_167)

        def generated(self, count: int, class_conditional: bool) -> None:
            raise BadInputError(f"asked for {count}")

    with pytest.raises(BadInputError, match=r"asked for 50000$"):
        Sehwag().prepare("fidelity", Asked())  # type: ignore[arg-type]


def test_settings_younger_than_records_are_told_only_where_they_matter() -> None:
    digits = load_benchmark("digits")
    assert not {"images", "covariance", "embedding"} & configure("sehwag", {"images": 200_000}, digits).params.keys()
    assert configure("sehwag", {"covariance": "shared"}, digits).params["covariance"] == "shared"
    imagenet = load_benchmark("imagenet256")
    assert configure("sehwag", {"covariance": "class"}, imagenet).params["covariance"] == "class"
    names = [
        plan_parts(PrepareRequest("sehwag", settings=settings, class_conditional=True))[1].path.name
        for settings in (
            (),
            (("covariance", "class"),),
            (("covariance", "shared"),),
            (("embedding", "adm-classifier"),),
        )
    ]
    assert len(set(names)) == 3
    assert names[0] == names[1]
    shared = configure("sehwag", {"covariance": "shared"}, digits)
    assert "--set covariance=shared" in prepare_command("hardness", shared, digits, "digits-ddpm")


def test_a_dead_feature_leaves_the_gaussian_finite() -> None:
    features = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    features[:, 2] = 0
    mean, whitening = class_gaussians(features, torch.zeros(50, dtype=torch.int64), 1)
    assert gaussian_hardness(features.double() - mean[0], whitening.expand(50, -1, -1)).isfinite().all()


def test_a_class_without_draws_is_named_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINORITYBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(Kit, "train", lambda *_, **__: pytest.fail("trained"))
    settings = (("fitted", 5), ("bands", 1), ("beta", 0))
    with pytest.raises(
        BadInputError, match=r"no image of class \d and \d more is among the 5 .* --set fitted="
    ) as caught:
        prepare_parts(PrepareRequest("sehwag", settings=settings, class_conditional=True))
    assert caught.value.exit_code == 2
    check_classes(np.array([0, 2, 1, 1]), 3)
    with pytest.raises(BadInputError, match="of class 1 is among the 2 "):
        check_classes(np.array([0, 2]), 3)


def test_presets() -> None:
    neutral = load_benchmark("digits").model_copy(update={"methods": {}})
    usual = configure("sehwag", {}, neutral).params
    paper = configure("sehwag", {"preset": "paper"}, neutral).params
    appendix = configure("sehwag", {"preset": "appendix-c"}, neutral).params
    changed = {key: value for key, value in paper.items() if value != usual[key]}
    assert changed == {"variant": "conditional", "hardness": "contrastive"}
    assert {key: value for key, value in appendix.items() if value != usual[key]} == {"variant": "ood"}
    with pytest.raises(BadInputError, match="no code was published for sehwag; known: reference, paper, appendix-c"):
        configure("sehwag", {"preset": "official-code"}, neutral)


def test_contrastive_loss_rises_away_from_the_own_mean() -> None:
    similarity = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    loss = F.cross_entropy(similarity, torch.tensor([0, 0]), reduction="none")
    assert loss[1] > loss[0]
