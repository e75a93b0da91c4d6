"""The page of one run: its numbers are the record's, its charts count the images, and spoilt runs are refused."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import run as command
from forged_records import filed, saved

from minoritybench import evaluate, leaderboards
from minoritybench.errors import BadInputError
from minoritybench.measures import JACKKNIFE
from minoritybench.records import load_record
from minoritybench.references import load_reference_set
from minoritybench.report.charts import overlay_svg
from minoritybench.report.run_page import write_run_page
from minoritybench.report.table import interval_note, interval_text, metric_table


@pytest.fixture
def run(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "run"))


def page_of(run: Path) -> str:
    return write_run_page(run).read_text()


def test_every_metric_stands_there_with_its_interval_and_seeds(run: Path) -> None:
    record, page = load_record(run / "record.json"), page_of(run)
    body = page.partition("<tbody>")[2].partition("</tbody>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in body.split("<tr>")[1:]]
    assert len(rows) == len(record.metrics)
    for row, metric in zip(rows, record.metrics, strict=True):
        assert html.unescape(row[0]).startswith(metric.name)
        assert row[1:3] == [f"{metric.value:.2f}", interval_text(metric)]
        assert row[3:6] == [f"{value:.2f}" for value in metric.per_seed.values()]
    assert f"<pre>{html.escape(record.command)}</pre>" in page
    assert record.id[:12] in page


def test_lowest_and_highest_are_those_of_the_table(run: Path) -> None:
    scores = sorted(pd.read_parquet(run / "per_image.parquet")["score/digits-jepa/deflated"])
    page = page_of(run)
    lists = page.split('class="tiles"')[1:]
    shown = [[float(text) for text in re.findall(r"<span>(-?[\d.]+)</span>", part)] for part in lists]
    count = len(shown[0])
    assert shown[0] == pytest.approx(scores[:count], abs=0.006)
    assert shown[1] == pytest.approx(scores[::-1][:count], abs=0.006)


def test_the_page_is_self_contained_and_shows_the_sheet(run: Path) -> None:
    page = page_of(run)
    assert base64.b64encode((run / "sheet.png").read_bytes()).decode() in page
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page == page_of(run)


def test_only_scores_that_compare_are_laid_over_each_other(run: Path) -> None:
    page = page_of(run)
    assert page.count('class="outline"') == 1
    members = len(load_reference_set("digits").members)
    assert f"the {members} members of the reference set digits" in page


def test_text_of_a_record_is_text(run: Path) -> None:
    record = load_record(run / "record.json")
    saved(record.model_copy(update={"command": "<script>alert(1)</script>"}), run / "record.json")
    page = page_of(run)
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_run_without_its_samples_says_so(run: Path) -> None:
    shutil.rmtree(run / "samples")
    page = page_of(run)
    assert "are not in this folder" in page
    assert 'class="tiles"' not in page


def test_the_page_of_a_filed_record_goes_elsewhere(small: Path, boards: Path, tmp_path: Path) -> None:
    record = filed(boards)
    for given in (record, record.parent):
        code, output = command("report", str(given))
        assert (code, output.count("\n")) == (2, 1)
        assert "--out FILE.html" in output
    page = tmp_path / "page.html"
    assert command("report", str(record.parent), "--out", str(page))[0] == 0
    assert load_record(record).id[:12] in page.read_text()
    assert leaderboards.check(boards / "results", boards) == []


def test_a_record_file_stands_for_its_folder(run: Path) -> None:
    by_folder = page_of(run)
    (run / "report.html").unlink()
    assert write_run_page(run / "record.json") == run / "report.html"
    assert (run / "report.html").read_text() == by_folder


def test_the_page_says_what_its_intervals_are(run: Path, tmp_path: Path) -> None:
    assert "Means over seeds; 95 % intervals: t over seeds. The last column" in page_of(run)
    evaluate("adm", n=12, seeds=(11,), out=tmp_path / "one")
    evaluate(samples=run / "samples" / "seed-11", out=tmp_path / "given")
    for folder in (tmp_path / "one", tmp_path / "given"):
        record, page = load_record(folder / "record.json"), page_of(folder)
        ways = {metric.interval for metric in record.metrics if metric.interval}
        assert ways == {JACKKNIFE, "t over images"}
        note = interval_note(record)
        assert f"intervals: {note}\n" in metric_table(record)
        assert f"One set of samples; 95 % intervals: {html.escape(note)}. The last column" in page
        assert all(way in note for way in ways)
        assert "over seeds" not in page


def test_spoilt_runs_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"holds no record\.json"):
        write_run_page(tmp_path)
    (tmp_path / "notes.html").write_text("mine")
    with pytest.raises(BadInputError, match="is no page of"):
        write_run_page(run, tmp_path / "notes.html")
    with pytest.raises(BadInputError, match="no such file"):
        write_run_page(run, spectrum=tmp_path)
    (tmp_path / "analysis.json").write_text(json.dumps({"spectrum": {}}))
    with pytest.raises(BadInputError, match="is not one that `analyze scores` wrote"):
        write_run_page(run, spectrum=tmp_path)
    with (run / "per_image.parquet").open("ab") as handle:
        handle.write(b"x")
    with pytest.raises(BadInputError, match="is not the file its record lists"):
        write_run_page(run)


def test_a_spectrum_is_drawn_where_it_is_given(run: Path, tmp_path: Path) -> None:
    facts = {"log_mean": [1.0, 0.0, -1.0], "log_variance": [0.25, 0.25, 0.25]}
    document = {"spectrum": facts, "dataset": {"images": 7}, "encoder": {"name": "some-encoder"}}
    (tmp_path / "analysis.json").write_text(json.dumps(document))
    page = write_run_page(run, spectrum=tmp_path).read_text()
    assert "7 images, some-encoder" in page
    assert page.count('class="band"') == 1


def test_overlaid_histograms_share_bins_and_are_shares() -> None:
    chart = overlay_svg([0.0, 0.0, 0.0, 4.0], np.array([4.0, 4.0]), threshold=2.0, label="x & y", bins=4)
    heights = [float(height) for height in re.findall(r'class="bar".*?height="([\d.]+)"', chart)]
    tallest = 144.0  # of 190, less the margins of 12 and 34: where all of one side fall into one bin
    assert heights == pytest.approx([0.75 * tallest, 0.0, 0.0, 0.25 * tallest], abs=0.06)
    [points] = re.findall(r'class="outline" points="([^"]+)"', chart)
    corners = [tuple(map(float, point.split(","))) for point in points.split(" ")]
    assert {y for x, y in corners if x < corners[-3][0]} == {156.0}
    assert min(y for _, y in corners) == 12.0
    assert "x &amp; y" in chart
