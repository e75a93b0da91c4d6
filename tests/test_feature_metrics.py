"""Metrics by name: what a benchmark's entry stands for, how it is identified, and what its interval and floor are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minoritybench.errors import BadInputError
from minoritybench.feature_metrics import FEATURE_METRICS, REFERENCE, TRAINING, chosen_metrics
from minoritybench.features import Space, known_facts
from minoritybench.measures import Judges, MetricPlan, fake_spaces, metric_records, plan_metrics, wanted_spaces
from minoritybench.metrics import (
    FeatureMoments,
    MetricValue,
    coverage_ceiling,
    frechet_bias_floor,
    frechet_distance,
    precision,
    t_interval,
)
from minoritybench.metrics.neighbours import mean_neighbour_distance
from minoritybench.metrics.uncertainty import cut, jackknife
from minoritybench.records import BenchmarkSpec, MetricRecord, load_benchmark
from minoritybench.references import load_reference_set
from minoritybench.registry import entries

SPACE = Space("digits-classifier")
JUDGES = Judges("digits-jepa", (), {"digits-jepa": None})


def benchmark(*metrics: Any) -> BenchmarkSpec:
    return BenchmarkSpec.model_validate(load_benchmark("digits").model_dump() | {"metrics": list(metrics)})


def sets(n_real: int = 60, n_fake: int = 50, dim: int = 4) -> tuple[Any, dict[str, Any]]:
    rng = np.random.default_rng(0)
    real, fake = (rng.normal(size=(n, dim)).astype(np.float32) for n in (n_real, n_fake))
    scores = {f"score/digits-jepa/{mode}": rng.normal(size=n_fake) for mode in ("reference", "deflated")}
    return SimpleNamespace(features=real, moments=FeatureMoments.of(real)), {SPACE.key: fake, **scores}


def plans(spec: BenchmarkSpec, side: Any) -> list[MetricPlan]:
    facts = {chosen.space.extractor: known_facts(chosen.space.extractor) for chosen in chosen_metrics(spec)}
    real = {(against, SPACE): side for against in (REFERENCE, TRAINING)}
    return plan_metrics(spec, load_reference_set("digits"), real, facts, JUDGES)


def record(name: str, metric: Any, groups: int = 1) -> tuple[MetricRecord, Any, dict[str, Any]]:
    side, arrays = sets()
    seeds = {str(seed): arrays for seed in range(groups)}
    (found,) = [r for r in metric_records(plans(benchmark(metric), side), seeds, {})[0] if r.name == name]
    return found, side, arrays


def test_a_name_alone_stands_for_the_preset() -> None:
    spec = benchmark("cFID", "sFID", "FD (vgg16-fc2)", {"metric": "FD", "features": "clip-b16"}, "precision")
    found = [(chosen.name, chosen.space, chosen.k) for chosen in chosen_metrics(spec)]
    assert found == [
        ("cFID", Space("inception-clean"), None),
        ("sFID", Space("inception-fid", "6d"), None),
        ("FD (vgg16-fc2)", Space("vgg16-fc2"), None),
        ("FD (clip-b16)", Space("clip-b16"), None),
        ("precision", SPACE, 5),
    ]


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (["cfid"], "unknown metric 'cfid'; known: FD, cFID"),
        (["FD"], "FD needs its features"),
        (["sFID", "sFID"], "'sFID' stands twice"),
        ([{"metric": "cFID", "k": 3}], "cFID has no k"),
    ],
)
def test_entries_that_cannot_be_are_one_line(metrics: list[Any], said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        chosen_metrics(benchmark(*metrics))


def test_every_metric_is_listed_and_its_features_exist() -> None:
    assert set(FEATURE_METRICS) <= set(entries("metrics"))
    for metric in FEATURE_METRICS.values():
        assert metric.space is None or metric.space.extractor in entries("features")


def test_spaces_that_are_needed_of_samples_and_of_real_images() -> None:
    spec = benchmark("cFID", "inception score", {"metric": "AvgkNN", "against": TRAINING}, "recall")
    assert fake_spaces(spec) == (Space("inception-clean"), Space("inception-fid", "logits"), SPACE)
    assert wanted_spaces(spec) == {REFERENCE: [Space("inception-clean"), SPACE], TRAINING: [SPACE]}


def test_a_set_metric_of_one_sample_set_has_the_jackknife_interval() -> None:
    found, side, arrays = record("FD (digits-classifier)", "FD (digits-classifier)")
    expected = jackknife(lambda fake: frechet_distance(real=side.moments, fake=fake), arrays[SPACE.key])
    assert (found.value, found.ci_low, found.ci_high) == (expected.value, expected.ci_low, expected.ci_high)
    assert found.interval is not None
    assert "jackknife" in found.interval


def test_an_interval_ends_where_the_values_do() -> None:
    """Fakes that lie all but wholly in the real balls: one more sample of the few outside moves precision a lot."""
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(60, 4)), rng.normal(size=(40, 4)) * 0.9

    def share(some: Any) -> MetricValue:
        return precision(real=real, fake=some)

    free, ended = jackknife(share, fake), jackknife(share, fake, within=(0.0, 1.0))
    assert free.ci_high is not None
    assert free.ci_high > 1
    assert (ended.value, ended.ci_low, ended.ci_high) == (free.value, free.ci_low, 1.0)
    assert cut((-0.5, 2.0), (0.0, np.inf)) == (0.0, 2.0)
    found = record("precision", "precision")[0]
    assert found.ci_high is not None
    assert found.ci_high <= 1


def test_a_mean_over_images_has_a_t_interval_over_them() -> None:
    found, side, arrays = record("AvgkNN", {"metric": "AvgkNN", "k": 2})
    values = mean_neighbour_distance(arrays[SPACE.key], 2, reference=side.features)
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx(t_interval(list(values)))
    assert found.interval == "t over images"
    assert found.params["k"] == 2


def test_an_interval_over_seeds_and_what_is_not_there_are_not_mentioned() -> None:
    found, _, _ = record("precision", "precision", groups=3)
    assert {"interval", "ideal", "details"}.isdisjoint(found.model_dump())
    single, _, _ = record("precision", "precision")
    assert "interval" in single.model_dump()


def test_what_a_perfect_generator_scores() -> None:
    floor, side, _ = record("FD (digits-classifier)", "FD (digits-classifier)")
    assert floor.ideal == frechet_bias_floor(side.moments.covariance, 60, 50)
    assert floor.ideal is not None
    assert record("coverage", "coverage")[0].ideal == coverage_ceiling(60, 50, 5)
    assert record("density", "density")[0].ideal == 1.0
    assert record("recall", "recall")[0].ideal is None


def test_an_undefined_metric_is_left_out_and_told() -> None:
    side, arrays = sets()
    far = {**arrays, SPACE.key: arrays[SPACE.key] + 1000}
    records, told = metric_records(plans(benchmark("rarity", "precision"), side), {"samples": far}, {})
    assert "rarity" not in [found.name for found in records]
    assert told == ["rarity is undefined for these samples and left out"]


def test_other_parameters_are_another_id() -> None:
    ids = [
        record(name, metric)[0].id for name, metric in (("AvgkNN", "AvgkNN"), ("AvgkNN", {"metric": "AvgkNN", "k": 4}))
    ]
    ids.append(record("AvgkNN", {"metric": "AvgkNN", "against": TRAINING})[0].id)
    assert len(set(ids)) == 3
