"""Which values of a board are level with the best, against scipy's tests of the same records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from forged_records import few
from numpy.typing import NDArray
from scipy import stats

from minoritybench.leaderboards import find_records, image_values
from minoritybench.records import MetricRecord, RunRecord, load_benchmark, load_record, metric_id
from minoritybench.report.tables import DECLARED, PairedSection, Section, sections

RESULTS = Path(__file__).parents[2] / "leaderboards" / "results"
SCORES = {
    "JEPA-SCORE": "score/digits-jepa/reference",
    "JEPA-SCORE (deflated)": "score/digits-jepa/deflated",
    "JEPA-SCORE (held-out: digits-ijepa)": "score/digits-ijepa/reference",
}


@pytest.fixture(scope="module")
def folders() -> dict[str, Path]:
    return {load_record(path).id: path.parent for path in find_records(RESULTS)}


@pytest.fixture(scope="module")
def table(folders: dict[str, Path]) -> Section:
    benchmark = load_benchmark("digits")
    records = [load_record(folder / "record.json") for folder in folders.values()]
    found = sections(benchmark, records, image_values(benchmark, folders))
    return next(one for one in found if isinstance(one, Section) and one.title == DECLARED)


def by_seed(record: RunRecord, name: str) -> list[float]:
    metric = record.metric(name)
    assert metric is not None
    return [metric.per_seed[str(seed)] for seed in record.sampling.seeds]


@pytest.mark.parametrize("name", ["FD (digits-classifier)", "FD (digits-pca20)", "precision", "coverage", "AvgkNN"])
def test_metrics_of_sets_are_level_where_a_paired_t_test_over_seeds_says_so(table: Section, name: str) -> None:
    position = [column.name for column in table.columns].index(name)
    best = next(row.record for row in table.rows if row.cells[position].place == "best")
    expected = {
        row.label: stats.ttest_rel(by_seed(row.record, name), by_seed(best, name)).pvalue >= 0.05
        for row in table.rows
        if row.record is not best
    }
    assert {row.label: row.cells[position].level for row in table.rows if row.record is not best} == expected


@pytest.mark.parametrize("name", list(SCORES))
def test_scores_are_level_where_a_paired_t_test_over_images_says_so(
    table: Section, folders: dict[str, Path], name: str
) -> None:
    position = [column.name for column in table.columns].index(name)
    best = next(row.record for row in table.rows if row.cells[position].place == "best")

    def scores(record: RunRecord) -> NDArray[np.float64]:
        return pd.read_parquet(folders[record.id] / "per_image.parquet")[SCORES[name]].to_numpy()

    for row in table.rows:
        level = row.record is not best and stats.ttest_rel(scores(row.record), scores(best)).pvalue >= 0.05
        assert row.cells[position].level == level, row.label


def test_both_answers_occur(table: Section) -> None:
    assert {cell.level for row in table.rows for cell in row.cells} == {True, False}
    assert not any(cell.level for row in table.rows for cell in row.cells if cell.place == "best")


def of(record: RunRecord, method: str, **changes: Any) -> RunRecord:
    """A record under another method's name, with other metrics or sampling."""
    params = {"ddim": {"stochasticity": 0.0}, "adm": {}}[method]
    named = record.method.model_copy(update={"name": method, "params": params})
    made = record.model_copy(update={"method": named, **changes})
    return made.model_copy(update={"id": made.content_id()})


def moved(record: RunRecord, by: Sequence[float]) -> list[MetricRecord]:
    """Its metrics with each seed's value moved."""
    return [
        metric.model_copy(
            update={
                "per_seed": {seed: v + d for (seed, v), d in zip(metric.per_seed.items(), by, strict=True)},
                "value": metric.value + sum(by) / len(by),
            }
        )
        for metric in record.metrics
    ]


def only(found: Sequence[Section | PairedSection]) -> dict[str, Section]:
    return {section.title: section for section in found if isinstance(section, Section)}


def test_a_record_of_more_samples_stands_apart_and_displaces_nothing(small: Path) -> None:
    record = load_record(small / "record.json")
    sampling = record.sampling.model_copy(update={"n": 13})
    metrics = [
        metric.model_copy(update={"params": params, "id": metric_id(metric.name, params)})
        for metric in record.metrics
        for params in [{**metric.params, "n_fake": 13}]
    ]
    rows = [record, of(record, "ddim"), of(record, "ddim", sampling=sampling, metrics=metrics)]
    found = only(sections(few(), rows))
    assert [row.label for row in found[DECLARED].rows] == ["adm", "ddim"]
    assert [row.record.id for row in found["13 samples a seed, not ranked"].rows] == [rows[2].id]
    assert [column.id for column in found[DECLARED].columns] == [metric.id for metric in record.metrics]


def test_ties_share_a_place_and_a_value_without_an_interval_is_no_level(small: Path) -> None:
    record = load_record(small / "record.json")
    equal = only(sections(few(), [record, of(record, "ddim")]))[DECLARED]
    assert {cell.place for row in equal.rows for cell in row.cells} == {None}  # all alike: nothing to rank

    clear = only(sections(few(), [record, of(record, "ddim", metrics=moved(record, (1.0, 1.1, 0.9)))]))[DECLARED]
    assert not any(cell.level for row in clear.rows for cell in row.cells)
    vague = only(sections(few(), [record, of(record, "ddim", metrics=moved(record, (5.0, -4.0, 0.5)))]))[DECLARED]
    for cells in zip(*(row.cells for row in vague.rows), strict=True):
        assert sorted((str(cell.place), cell.level) for cell in cells) == [("best", False), ("second", True)]

    one = [m.model_copy(update={"per_seed": {"11": m.per_seed["11"]}}) for m in moved(record, (5.0, -4.0, 0.5))]
    single = record.sampling.model_copy(update={"seeds": [11]})
    lone = only(sections(few(), [record, of(record, "ddim", metrics=one, sampling=single)]))[DECLARED]
    assert not any(cell.level for row in lone.rows for cell in row.cells)


def test_prompts_are_the_units_where_there_are_prompts(folders: dict[str, Path]) -> None:
    benchmark = load_benchmark("digits-t2i")
    records = [load_record(folder / "record.json") for folder in folders.values()]
    table = only(sections(benchmark, records, image_values(benchmark, folders)))[DECLARED]
    position = [column.name for column in table.columns].index("JEPA-SCORE (held-out: digits16-ijepa)")
    best = next(row.record for row in table.rows if row.cells[position].place == "best")

    def by_prompt(record: RunRecord) -> pd.Series[float]:
        values = pd.read_parquet(folders[record.id] / "per_image.parquet")
        return values.groupby("prompt")["score/digits16-ijepa/reference"].mean()

    for row in table.rows:
        if row.record is not best:  # as many images a prompt: the clustered interval is the t-interval over prompts
            expected = stats.ttest_rel(by_prompt(row.record), by_prompt(best)).pvalue >= 0.05
            assert row.cells[position].level == expected, row.label
