"""MG: labels, gradient, what its classifier is given, presets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from minoritybench.baselines.adm import Adm
from minoritybench.baselines.mg import LEVEL_STREAM, Mg, quantile_labels, quantile_labels_within
from toy_denoisers import SHAPE, SmoothModel, step_at
from toy_guides import central_differences, states, toy_part

from minoritybench.diffusion.loop import run_chain
from minoritybench.diffusion.schedule import make_schedule
from minoritybench.errors import BadInputError
from minoritybench.methods import configure
from minoritybench.needs import Need
from minoritybench.perceptual import euclidean
from minoritybench.prepare import Bench, shards
from minoritybench.records import load_benchmark
from minoritybench.rng import ImageStreams

INDEX = 10
LEVELS = "prepared:levels"
BY_CLASS = "prepared:levels-by-class"


@pytest.mark.parametrize("levels", [2, 5, 49, 98, 100, 103, 107])
def test_top_sample_gets_the_top_level_and_counts_are_equal(levels: int) -> None:
    """(1 / L) L < 1 in floating point for L = 49, 98, 103, 107: the released labelling left the top sample at 0."""
    scores = np.random.default_rng(0).gamma(2.0, size=levels * 20)
    labels, thresholds = quantile_labels(scores, levels)
    order = scores.argsort()
    assert labels[order[-1]] == levels - 1
    assert labels[order[0]] == 0
    assert (np.diff(labels[order]) >= 0).all()
    counts = np.bincount(labels, minlength=levels)
    assert counts.sum() == len(scores)
    assert abs(counts - 20).max() <= 1
    assert (np.diff(thresholds) > 0).all()
    assert thresholds[-1] == scores.max()


def test_the_trap_is_real() -> None:
    assert all((1 / levels) * levels < 1 for levels in (49, 98, 103, 107))
    assert (1 / 100) * 100 == 1


def test_label_is_the_smallest_threshold_not_below_the_score() -> None:
    scores = np.random.default_rng(1).normal(size=97)
    labels, thresholds = quantile_labels(scores, 7)
    for score, label in zip(scores, labels, strict=True):
        assert score <= thresholds[label]
        assert label == 0 or score > thresholds[label - 1]


def test_labels_within_classes_ignore_the_level_of_the_class() -> None:
    scores = np.concatenate([np.arange(30.0), 1000 + np.arange(30.0)])
    classes = np.repeat([0, 1], 30)
    labels, thresholds = quantile_labels_within(scores, classes, 3)
    assert labels[:30].tolist() == labels[30:].tolist() == np.repeat([0, 1, 2], 10).tolist()
    assert thresholds.shape == (2, 3)
    whole, _ = quantile_labels_within(scores, None, 3)
    assert whole.tolist() == np.repeat([0, 1, 2], 20).tolist()
    with pytest.raises(BadInputError, match="of class 1"):
        quantile_labels_within(scores[:32], classes[:32], 3)


@pytest.mark.parametrize("within", [False, True])
def test_delta_is_the_weighted_gradient_of_the_top_levels_log_probability(within: bool) -> None:
    x_t, part, labels = states(), toy_part(4), torch.tensor([3, 7])
    step = step_at(INDEX, x_t, SmoothModel(), **{LEVELS: part, BY_CLASS: part})
    step.labels = labels if within else None
    delta = Mg(w=2.5, levels=4).correct(step)
    assert delta is not None

    def log_probability(x: torch.Tensor) -> torch.Tensor:
        return part.logits(x, step.timestep, step.labels).softmax(dim=1)[:, 3].log()

    expected = 2.5 * step.variance * central_differences(log_probability, x_t)
    assert (delta - expected).norm() / expected.norm() < 1e-8
    assert step.passes == {"denoiser_forward": 1, "classifier_forward": 1, "classifier_backward": 1}


def test_the_classifier_gets_the_original_timestep_and_the_class_beside_the_level() -> None:
    part, other = toy_part(4), toy_part(4)
    step = step_at(INDEX, states(), SmoothModel(), **{LEVELS: other, BY_CLASS: part})
    step.labels = torch.tensor([3, 7])
    Mg(levels=4).correct(step)
    timestep = make_schedule("cosine", "50").timesteps[INDEX]
    assert timestep == 204
    assert part.classifier.timesteps == [[204, 204]]
    assert part.classifier.labels == [[3, 7]]  # levels go up to 3 only: the class was not mistaken for one
    assert other.classifier.timesteps == []


def test_without_within_class_labels_choose_the_unconditional_classifier() -> None:
    part = toy_part(4)
    step = step_at(INDEX, states(), SmoothModel(), **{LEVELS: part})
    step.labels = torch.tensor([3, 7])
    assert Mg(levels=4, within_class=False).correct(step) is not None
    assert Mg(within_class=False).needs(True) == Mg().needs(False) == {LEVELS}
    assert Mg().needs(True) == {BY_CLASS}


def test_levels_aimed_at_are_kept_through_the_chain_and_spread_from_the_lowest_up() -> None:
    method = Mg(levels=10, lowest_level=6)
    targets = []
    for index in (40, 3):
        step = step_at(index, states(64), SmoothModel())
        targets.append(method._target(step))
    assert torch.equal(*targets)
    assert set(targets[0].tolist()) == {6, 7, 8, 9}
    assert set(Mg(levels=10)._target(step).tolist()) == {9}
    assert torch.equal(targets[0], 6 + ImageStreams(0, range(64)).integers(4, LEVEL_STREAM))


def test_no_gradient_passes_through_the_denoiser_and_zero_weight_is_plain_sampling() -> None:
    model, chain, streams = SmoothModel(), make_schedule("cosine", "50"), ImageStreams(0, range(2))
    resources = {LEVELS: toy_part(4)}
    start = Double(w=0.0, levels=4)
    plain, _ = run_chain(model, chain, start, streams, None)
    off, passes = run_chain(model, chain, Double(w=0.0, levels=4), streams, None, resources=resources)
    on, guided = run_chain(model, chain, Double(w=1.0, levels=4), streams, None, resources=resources)
    base, _ = run_chain(SmoothModel(), chain, PlainDouble(), streams, None)
    assert torch.equal(off, base)
    assert torch.equal(off, plain)
    assert passes == {"denoiser_forward": 50}
    assert not torch.equal(on, off)
    assert guided == {"denoiser_forward": 50, "classifier_forward": 50, "classifier_backward": 50}


def _start(streams: ImageStreams, shape: tuple[int, ...], schedule: Any) -> tuple[torch.Tensor, int]:
    return streams.normal(shape, "initial").double(), schedule.steps - 1


class Double(Mg):
    def initial(self, streams: ImageStreams, shape: tuple[int, ...], schedule: Any) -> tuple[torch.Tensor, int]:
        return _start(streams, shape, schedule)


class PlainDouble(Adm):
    def initial(self, streams: ImageStreams, shape: tuple[int, ...], schedule: Any) -> tuple[torch.Tensor, int]:
        return _start(streams, shape, schedule)


def test_minority_score_is_the_mean_distance_to_the_clamped_restoration() -> None:
    method = Mg(levels=4, distance="l2", perturb=60, n_iter=3)
    model, x0 = SmoothModel(), states(3).clamp(-1, 1)
    bench = Bench(model, "cpu")  # type: ignore[arg-type]
    indices = [4, 9, 2]
    score = method.minority_score(bench, x0, None, indices)
    chain = make_schedule("cosine", "100")
    assert chain.timesteps[60] == 605
    a, found = float(chain.alphas_cumprod[60]), []
    for draw in range(3):
        noise = ImageStreams(0, indices).normal(SHAPE, "mg-perturb", draw).double()
        x_t = a**0.5 * x0 + (1 - a) ** 0.5 * noise
        eps = model.predict(x_t, torch.full((3,), 605), None)
        restored = ((x_t - (1 - a) ** 0.5 * eps) / a**0.5).clamp(-1, 1)
        found.append((x0 - restored).flatten(1).norm(dim=1))
    assert torch.allclose(score, torch.stack(found).mean(dim=0), rtol=1e-9)
    # an image's score belongs to its number, not to its place
    assert torch.allclose(method.minority_score(bench, x0[1:2], None, [9]), score[1:2], rtol=1e-12)


def test_a_distance_is_opened_once_for_all_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(shards, "open_distance", lambda name, device: opened.append(name) or Need(euclidean, None))
    shards._distance.cache_clear()
    for first in (0, 2, 4):
        bench = Bench(SmoothModel(), "cpu")  # type: ignore[arg-type]
        Mg(levels=4, n_iter=2).minority_score(bench, states().clamp(-1, 1), None, [first, first + 1])
    shards._distance.cache_clear()
    assert opened == ["lpips-vgg"]


class LabelledModel(SmoothModel):
    """Has no unconditional mode; its prediction depends on the class."""

    requires_labels = True

    def predict(self, x_t: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        assert labels is not None
        return super().predict(x_t, timestep, None) * (1 + labels.view(-1, 1, 1, 1) / 10)


def test_a_network_that_requires_labels_is_told_the_class_whatever_the_bins() -> None:
    method, x0, labels = Mg(levels=4, distance="l2", within_class=False), states().clamp(-1, 1), torch.tensor([3, 7])
    bench = Bench(LabelledModel(), "cpu")  # type: ignore[arg-type]
    score = method.minority_score(bench, x0, labels, [0, 1])
    assert torch.equal(score, method.score_within_class(bench, x0, labels, [0, 1]))
    assert not torch.equal(score, method.minority_score(bench, x0, torch.tensor([3, 8]), [0, 1]))
    step = step_at(INDEX, states(), SmoothModel(), **{LEVELS: toy_part(4)})
    step.model, step.labels = LabelledModel(), labels  # type: ignore[assignment]
    assert method.objective(step)["minority score"].isfinite().all()
    free = Bench(SmoothModel(), "cpu")  # type: ignore[arg-type]
    assert torch.equal(method.minority_score(free, x0, labels, [0, 1]), method.minority_score(free, x0, None, [0, 1]))


def test_presets_differ_where_paper_and_code_do() -> None:
    neutral = load_benchmark("digits").model_copy(update={"methods": {}})
    usual = configure("mg", {}, neutral).params
    assert configure("mg", {"preset": "paper"}, neutral).params == usual
    assert (usual["w"], usual["levels"], usual["perturb"], usual["n_iter"]) == (3.5, 100, 90, 5)
    recipe = {"iterations": 60_000, "batch_size": 256, "learning_rate": 3e-4, "weight_decay": 0.05, "held_out": 0.05}
    assert usual.items() >= recipe.items()
    code = configure("mg", {"preset": "official-code"}, neutral).params
    assert {key: value for key, value in code.items() if value != usual[key]} == {"perturb": 60, "within_class": False}


@pytest.mark.parametrize(
    "settings", [{"levels": 1}, {"levels": 5, "lowest_level": 5}, {"perturb": 100}, {"n_iter": 0}, {"iterations": 0}]
)
def test_senseless_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BadInputError, match="mg: "):
        Mg(**settings)
