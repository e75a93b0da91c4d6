"""Which values of a board are level with the best, against scipy's tests of the same records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats

from minoritybench.leaderboards import find_records, image_values
from minoritybench.records import RunRecord, load_benchmark, load_record
from minoritybench.report.tables import DECLARED, Section, sections

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
