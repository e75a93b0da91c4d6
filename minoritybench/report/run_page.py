"""The page of one run: images, metrics, scores against the reference set's, cost, and the command to repeat it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from minoritybench.data.source import decode_rgb
from minoritybench.errors import BadInputError, MinorityBenchError
from minoritybench.given_samples import SAMPLES_FILE, SAMPLES_FOLDER
from minoritybench.measure_shard import score_key
from minoritybench.record_files import RECORD_NAME, record_file
from minoritybench.records import RunRecord, load_record
from minoritybench.references import LoadedReference, load_reference_set
from minoritybench.report.charts import band_svg, overlay_svg
from minoritybench.report.gallery import tile_uri
from minoritybench.report.pages import refuse_other_file, render
from minoritybench.report.table import ARROWS, interval_note, interval_text, row_label
from minoritybench.sidecars import PER_IMAGE_FILE, SHEET_FILE, read_table
from minoritybench.store import PLAN_FILE, read_json, sha256_bytes, sha256_file, write_text

COMMAND = "report"
PAGE_FILE = "report.html"
_SHOWN = 24


@dataclass(frozen=True)
class ScoreChart:
    """A histogram of the deflated scores of one encoder; `note` says what it shows and what it lacks."""

    encoder: str
    chart: Markup
    note: str


def write_run_page(run: Path, out: Path | None = None, spectrum: Path | None = None) -> Path:
    """Write the page of an `evaluate` output, or of a filed record with its sidecars, and return where it is.

    `run`: the folder or its record file. `out`: needed for a filed record, beside which nothing else may lie.
    `spectrum`: an output of `analyze scores` on the run's samples, shown too. Errors (exit 2): no record there,
    sidecars that are missing or not those the record lists, and a file in the place of the page that is none.
    """
    record, folder = load_run_record(run), record_file(run).parent
    place = out or _default_place(folder)
    refuse_other_file(place, COMMAND)
    table = read_table(folder / PER_IMAGE_FILE)
    reference = _reference(record)
    page = render(
        "report.html",
        COMMAND,
        record=record,
        label=row_label(record),
        arrows=ARROWS,
        interval=interval_text,
        intervals=interval_note(record),
        seeds=[str(seed) for seed in record.sampling.seeds] or ["samples"],
        sheet="data:image/png;base64," + base64.b64encode((folder / SHEET_FILE).read_bytes()).decode(),
        charts=[_chart(record, table, name, reference) for name in [record.encoder.guide, *record.encoder.judges]],
        ends=_ends(record, table, folder),
        spectrum=None if spectrum is None else _spectrum(spectrum),
        mebibytes=record.cost.peak_memory_bytes / 2**20,
    )
    write_text(place, page)
    return place


def _default_place(folder: Path) -> Path:
    if not (folder / PLAN_FILE).is_file():
        raise BadInputError(
            f"{folder} has no {PLAN_FILE}, so is a filed record, beside which nothing else may lie; name the page:"
            " --out FILE.html"
        )
    return folder / PAGE_FILE


def load_run_record(run: Path) -> RunRecord:
    """The record in an output folder of `evaluate`, or filed with its sidecars, after a look at their digests.

    Errors (exit 2): a folder without a record, a file beside it that is gone or was edited.
    """
    path = record_file(run)
    if not path.is_file():
        raise BadInputError(f"{run} holds no {RECORD_NAME}; name an output folder of `minoritybench evaluate`")
    record = load_record(path)
    for artifact in record.artifacts:
        file = path.parent / artifact.path
        if not file.is_file() or sha256_file(file) != artifact.sha256:
            raise BadInputError(f"{file} is missing or is not the file its record lists; evaluate again")
    return record


def _reference(record: RunRecord) -> LoadedReference | None:
    """The reference set of the record where it is registered here and still the same; the images are not opened."""
    try:
        found = load_reference_set(record.reference_set.name)
    except MinorityBenchError:
        return None
    return found if found.recipe.sha256 == record.reference_set.sha256 else None


def _chart(record: RunRecord, table: pd.DataFrame, encoder: str, reference: LoadedReference | None) -> ScoreChart:
    key = score_key(encoder, "deflated")
    if key not in table.columns:
        raise BadInputError(f"{PER_IMAGE_FILE} has no column {key}, which the record's encoders give")
    scores = table[key].to_numpy(dtype=np.float64)
    real, limit = None, None
    note = f"The reference set {record.reference_set.name} has no scores by this encoder and these weights to compare."
    if reference is not None and _compares(record, encoder):
        real, limit = reference.members["score_deflated"].to_numpy(dtype=np.float64), reference.recipe.threshold
        note = (
            f"Outlined: the {len(real)} members of the reference set {reference.recipe.name}; dashed: its last member."
        )
    chart = overlay_svg(scores, real, threshold=limit, label="JEPA-SCORE (deflated), nats; share of images")
    return ScoreChart(encoder, chart, note)


def _compares(record: RunRecord, encoder: str) -> bool:
    """Whether the reference set was ranked by this encoder with these weights: the record's minority share was then
    measured with it, and only then."""
    share = record.metric("minority share")
    wanted = {"encoder": encoder, "weights_sha256": record.encoder.weights_sha256.get(encoder)}
    return share is not None and all(share.params.get(key) == value for key, value in wanted.items())


def _ends(record: RunRecord, table: pd.DataFrame, run: Path) -> list[tuple[str, list[dict[str, Any]]]]:
    """Tiles of the lowest and the highest samples by the guide's deflated score; none where the images are not here."""
    files = _files(run / SAMPLES_FOLDER)
    ranked = table.assign(score=table[score_key(record.encoder.guide, "deflated")])
    ranked = ranked.sort_values(["score", "seed", "index"], kind="stable")
    count = min(_SHOWN, len(ranked) // 2)
    chosen = {"Lowest": ranked.head(count), "Highest": ranked.tail(count).iloc[::-1]}
    found = []
    for title, rows in chosen.items():
        tiles = [tile for row in rows.itertuples() if (tile := _tile(row, files)) is not None]
        if tiles:
            found.append((title, tiles))
    return found


def _files(folder: Path) -> Mapping[str, Path]:
    """Drawn images by the digest of their files."""
    if not (folder / SAMPLES_FILE).is_file():
        return {}
    try:
        return {str(row["sha256"]): folder / str(row["file"]) for row in read_json(folder / SAMPLES_FILE)}
    except (TypeError, KeyError):
        raise BadInputError(f"{folder / SAMPLES_FILE} is not one that minoritybench wrote") from None


def _tile(row: Any, files: Mapping[str, Path]) -> dict[str, Any] | None:
    path = files.get(str(row.sha256))
    if path is None or not path.is_file():
        return None
    data = path.read_bytes()
    if sha256_bytes(data) != row.sha256:
        raise BadInputError(f"{path} is not the image that was measured; evaluate again")
    title = f"seed {row.seed}, image {row.index}" + (f": {row.prompt}" if hasattr(row, "prompt") else "")
    return {"uri": tile_uri(decode_rgb(data)[0]), "title": title, "score": row.score}


def _spectrum(folder: Path) -> dict[str, Any]:
    """The chart of `analyze scores`, with its encoder and number of images."""
    document = read_json(folder / "analysis.json")
    try:
        facts, images = document["spectrum"], int(document["dataset"]["images"])
        deviation = [float(value) ** 0.5 for value in facts["log_variance"]]
        chart = band_svg(facts["log_mean"], deviation, label="position i, largest first")
        return {"chart": chart, "images": images, "encoder": str(document["encoder"]["name"])}
    except (TypeError, KeyError, ValueError):
        raise BadInputError(f"{folder / 'analysis.json'} is not one that `analyze scores` wrote") from None
