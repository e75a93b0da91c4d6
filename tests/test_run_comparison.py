"""compare of two runs: paired image by image where the noise is shared, by seed elsewhere, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from forged_records import saved
from scipy.stats import ttest_ind, ttest_rel

import minoritybench
from minoritybench.cli import cli
from minoritybench.errors import BadInputError
from minoritybench.records import load_record
from minoritybench.report.differences import BY_IMAGE, BY_SEED, NONE, WELCH, welch_difference
from minoritybench.run_comparison import compare_runs, comparison_text


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two methods, the same three seeds of twelve images."""
    root = tmp_path_factory.mktemp("runs")
    for method in ("adm", "ddim"):
        minoritybench.evaluate(method, n=12, seeds=(1, 2, 3), out=root / method)
    return root / "adm", root / "ddim"


def edited(run: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a run whose record says something else."""
    shutil.copytree(run, folder)
    saved(load_record(run / "record.json").model_copy(update=changes), folder / "record.json")
    return folder


def test_scores_are_paired_image_by_image(runs: tuple[Path, Path]) -> None:
    found = compare_runs(*runs)
    assert found.paired
    ours, theirs = (pd.read_parquet(run / "per_image.parquet")["score/digits-jepa/reference"] for run in runs)
    expected = ttest_rel(ours, theirs).confidence_interval(0.95)
    [score] = [one for one in found.metrics if one.name == "JEPA-SCORE"]
    assert score.interval == BY_IMAGE
    assert score.difference == pytest.approx(float(np.mean(ours - theirs)))
    assert (score.ci_low, score.ci_high) == pytest.approx((expected.low, expected.high))


def test_set_metrics_are_compared_by_seed(runs: tuple[Path, Path]) -> None:
    records = [load_record(run / "record.json") for run in runs]
    [one] = [one for one in compare_runs(*runs).metrics if one.name == "FD (digits-pca20)"]
    seeds = [list(metric.per_seed.values()) for record in records if (metric := record.metric(one.name))]
    expected = ttest_rel(*seeds).confidence_interval(0.95)
    assert one.interval == BY_SEED
    assert one.difference == pytest.approx(np.mean(seeds[0]) - np.mean(seeds[1]))
    assert (one.ci_low, one.ci_high) == pytest.approx((expected.low, expected.high))


def test_swapping_the_sides_turns_every_sign(runs: tuple[Path, Path]) -> None:
    there, back = compare_runs(*runs), compare_runs(*runs[::-1])
    turned = {"A": "B", "B": "A", None: None}
    for one, other in zip(there.metrics, back.metrics, strict=True):
        assert one.difference == pytest.approx(-other.difference)
        assert turned[one.better] == other.better
        if one.ci_low is not None and other.ci_high is not None:
            assert one.ci_low == pytest.approx(-other.ci_high)


def test_a_run_differs_from_itself_by_nothing(runs: tuple[Path, Path]) -> None:
    found = compare_runs(runs[0], runs[0] / "record.json")
    assert found.apart == {}
    assert {(one.difference, one.ci_low, one.ci_high, one.better) for one in found.metrics} == {(0.0, 0.0, 0.0, None)}


def test_better_follows_the_direction(runs: tuple[Path, Path], tmp_path: Path) -> None:
    record = load_record(runs[0] / "record.json")
    metrics = []
    for metric in record.metrics:
        seeds = {seed: value + 1 + 0.001 * int(seed) for seed, value in metric.per_seed.items()}
        mean = float(np.mean(list(seeds.values())))
        metrics.append(metric.model_copy(update={"per_seed": seeds, "value": mean}))
    above = edited(runs[0], tmp_path / "above", metrics=metrics)
    (above / "per_image.parquet").unlink()  # by seed throughout: the forged values are in the record alone
    for one in compare_runs(above, runs[0]).metrics:
        assert one.better == ("A" if one.direction == "higher" else "B")


def test_other_seeds_are_two_independent_groups(runs: tuple[Path, Path], tmp_path: Path) -> None:
    record = load_record(runs[1] / "record.json")
    metrics = [
        metric.model_copy(update={"per_seed": {f"1{seed}": value for seed, value in metric.per_seed.items()}})
        for metric in record.metrics
    ]
    sampling = record.sampling.model_copy(update={"seeds": [11, 12, 13]})
    other = edited(runs[1], tmp_path / "other", metrics=metrics, sampling=sampling)
    found = compare_runs(runs[0], other)
    assert not found.paired
    assert {one.interval for one in found.metrics} == {WELCH}
    ours, theirs = (list(load_record(run / "record.json").metrics[0].per_seed.values()) for run in runs)
    first = found.metrics[0]
    assert (first.difference, first.ci_low, first.ci_high) == pytest.approx(welch_difference(ours, theirs))
    assert "the images are no pairs" in comparison_text(found)


def test_welch_equals_scipy_and_knows_no_spread() -> None:
    ours, theirs = [1.0, 2.0, 4.0], [0.5, 0.6, 0.9, 3.0]
    expected = ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    assert welch_difference(ours, theirs)[1:] == pytest.approx((expected.low, expected.high))
    assert welch_difference([2.0, 2.0], [1.0, 1.0]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("change", ["generator", "sampling"])
def test_images_of_other_networks_or_classes_are_no_pairs(runs: tuple[Path, Path], tmp_path: Path, change: str) -> None:
    part = getattr(load_record(runs[1] / "record.json"), change)
    told = {"generator": {"weights_sha256": "0" * 64}, "sampling": {"class_conditional": True}}
    other = edited(runs[1], tmp_path / "other", **{change: part.model_copy(update=told[change])})
    found = compare_runs(runs[0], other)
    assert not found.paired
    assert {one.interval for one in found.metrics} == {BY_SEED}


def test_samples_made_elsewhere_have_no_interval(runs: tuple[Path, Path], tmp_path: Path) -> None:
    for run in runs:
        minoritybench.evaluate(samples=run / "samples", out=tmp_path / run.name)
    found = compare_runs(tmp_path / "adm", tmp_path / "ddim")
    assert not found.paired
    assert {(one.interval, one.ci_low, one.better) for one in found.metrics} == {(NONE, None, None)}


def test_metrics_that_do_not_compare_are_named(runs: tuple[Path, Path], tmp_path: Path) -> None:
    record = load_record(runs[1] / "record.json")
    first, second, *rest = record.metrics
    other = first.model_copy(update={"id": "0" * 16, "params": {**first.params, "n_fake": 7}})
    named = second.model_copy(update={"name": "something else", "id": "1" * 16})
    found = compare_runs(runs[0], edited(runs[1], tmp_path / "other", metrics=[other, named, *rest]))
    assert found.apart == {first.name: "differs in n_fake", second.name: "only in A", named.name: "only in B"}
    assert len(found.metrics) == len(rest)


def test_where_nothing_compares_a_sentence_says_so(runs: tuple[Path, Path], tmp_path: Path) -> None:
    metrics = [
        metric.model_copy(update={"id": f"{number:016d}", "params": {**metric.params, "n": 7}})
        for number, metric in enumerate(load_record(runs[1] / "record.json").metrics)
    ]
    done = CliRunner().invoke(cli, ["compare", str(runs[0]), str(edited(runs[1], tmp_path / "other", metrics=metrics))])
    _, _, sentence, *reasons = done.stdout.splitlines()
    assert done.exit_code == 0
    assert sentence == "no metric of the two runs compares: none was measured with equal parameters in both"
    assert reasons == [f"not compared: {metric.name}, differs in n" for metric in metrics]


def test_filed_records_are_named_by_the_start_of_their_ids(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = []
    for run in runs:
        record = load_record(run / "record.json")
        ids.append(record.id)
        shutil.copytree(run, tmp_path / "leaderboards/results/digits" / record.method.name / record.id[:16])
    monkeypatch.chdir(tmp_path)
    by_id, by_path = (
        CliRunner().invoke(cli, ["compare", *words]).stdout for words in ((ids[0][:8], ids[1]), map(str, runs))
    )
    assert by_id == by_path
    assert f"record {ids[1][:12]}" in by_id
    for wrong in ("0" * 8, ids[0][:7]):
        done = CliRunner().invoke(cli, ["compare", wrong, ids[1]])
        assert isinstance(done.exception, BadInputError)
        assert str(done.exception).startswith(
            f"no run folder, record file or reference set has this name, and '{wrong}' is the start of 0 filed"
            if len(wrong) == 8
            else f"{wrong}: no run folder and no record file is there; unknown reference set '{wrong}'"
        )


def test_what_is_no_pair_of_runs_is_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = edited(runs[1], tmp_path / "other", benchmark="celeba64")
    with pytest.raises(BadInputError, match=r"a run on digits, .* on celeba64"):
        compare_runs(runs[0], other)
    altered = shutil.copytree(runs[1], tmp_path / "altered")
    with (altered / "per_image.parquet").open("ab") as handle:
        handle.write(b"x")
    with pytest.raises(BadInputError, match="is not the file its record lists"):
        compare_runs(runs[0], altered)
    for words, said in (
        ([str(runs[0]), "digits"], "is a run and digits is none"),
        ([str(runs[0]), str(runs[1]), "--out", "page.html"], "minoritybench gallery"),
    ):
        done = CliRunner().invoke(cli, ["compare", *words])
        assert isinstance(done.exception, BadInputError)
        assert said in str(done.exception)


def test_json_holds_what_the_table_says(runs: tuple[Path, Path]) -> None:
    words = ["compare", *map(str, runs)]
    facts = json.loads(CliRunner().invoke(cli, [*words, "--json"]).stdout)
    text = CliRunner().invoke(cli, words).stdout
    assert facts["kind"] == "runs"
    assert len(facts["metrics"]) == len(load_record(runs[0] / "record.json").metrics)
    for one in facts["metrics"]:
        [line] = [line for line in text.splitlines() if line.startswith(f"{one['name']}  ")]
        assert f"{one['difference']:+.3f}" in line
