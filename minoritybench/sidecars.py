"""What stands beside a run record, written and read: per-image values and a sheet of the first images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from minoritybench.errors import BadInputError
from minoritybench.measure_shard import MODES, score_key
from minoritybench.measures import Arrays
from minoritybench.records import Artifact, BenchmarkSpec, RunRecord
from minoritybench.report.pictures import contact_sheet, png_bytes, thumbnail
from minoritybench.store import atomic_path, digest_of, sha256_file, write_bytes
from minoritybench.text_metrics import text_choices

PER_IMAGE_FILE = "per_image.parquet"
SHEET_FILE = "sheet.png"
SHEET_IMAGES = 64
SHEET_COLUMNS = 8
SHEET_TILE, SHEET_LARGEST = 32, 128
"""Pixels: smaller samples are enlarged to at least the one by a whole factor, larger ones shrunk to the other."""
FACTS = ("seed", "index", "label", "sha256")
PROMPT = "prompt"


def value_columns(encoders: Iterable[str], text: Iterable[str]) -> list[str]:
    """What per_image.parquet holds of each image: every encoder's two scores and the `text` metrics, by their keys."""
    return [*(score_key(encoder, mode) for encoder in encoders for mode in MODES), *text]


def write_sidecars(
    out: Path,
    first: Sequence[NDArray[np.uint8]],
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    measured: Mapping[str, NDArray[Any]],
) -> list[Artifact]:
    """Write per_image.parquet and sheet.png into `out`; each is listed with its digest.

    The table has a row an image: `seed, index, label, sha256`, with prompts `prompt`, and the `columns` of what was
    measured. The sheet shows `first`.
    """
    facts = [*FACTS, *([PROMPT] if PROMPT in rows[0] else [])]
    table = pd.DataFrame(rows)[facts].astype({"seed": "Int64", "label": "Int64"})
    for column in columns:
        table[column] = measured[column]
    with atomic_path(out / PER_IMAGE_FILE) as part:
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None), part)
    write_bytes(out / SHEET_FILE, png_bytes(_sheet(first[:SHEET_IMAGES])))
    return [
        Artifact(path=name, sha256=sha256_file(out / name), bytes=(out / name).stat().st_size)
        for name in (PER_IMAGE_FILE, SHEET_FILE)
    ]


def read_values(record: RunRecord, benchmark: BenchmarkSpec, path: Path) -> dict[str, Arrays]:
    """The values of a record's per_image.parquet by seed, and its prompts under `PROMPT`, after a look at its shape;
    one line of error where it has another."""
    table = _read_parquet(path)
    text = [choice.key for choice in text_choices(benchmark) if record.metric(choice.name) is not None]
    values = value_columns([record.encoder.guide, *record.encoder.judges], text)
    told = [PROMPT] if record.sampling.text else []
    if table.column_names != [*FACTS, *told, *values]:
        raise BadInputError(f"sidecar {path.name} has other columns than the judges of the record give")
    if not all(_holds_scores(table[name]) for name in values):
        raise BadInputError(f"sidecar {path.name}: scores must be finite float64 without gaps")
    if table["label"].null_count != (0 if record.sampling.class_conditional else table.num_rows):
        raise BadInputError(f"sidecar {path.name}: labels and sampling.class_conditional contradict each other")
    seeds, n = record.sampling.seeds, record.sampling.n
    found = zip(table["seed"].to_pylist(), table["index"].to_pylist(), strict=True)
    if table.num_rows != n * len(seeds) or list(found) != [(seed, index) for seed in seeds for index in range(n)]:
        raise BadInputError(f"sidecar {path.name} does not list every sample of every seed in order")
    columns: dict[str, NDArray[Any]] = {name: table[name].to_numpy() for name in [*told, *values]}
    groups: dict[str, Arrays] = {
        str(seed): {name: column[position * n : (position + 1) * n] for name, column in columns.items()}
        for position, seed in enumerate(seeds)
    }
    for seed, arrays in groups.items() if told else ():
        if digest_of([str(prompt) for prompt in arrays[PROMPT]]) != record.sampling.text.get("prompts_sha256"):
            raise BadInputError(f"sidecar {path.name}: the prompts of seed {seed} are not those of sampling.text")
    return groups


def image_digests(path: Path) -> tuple[str, ...]:
    """The digest of every image, in order. Error: an unreadable file, or one without them, exits 2."""
    table = _read_parquet(path, ["sha256"])
    if table.column_names != ["sha256"]:
        raise BadInputError(f"sidecar {path.name} has no column sha256")
    return tuple(map(str, table["sha256"].to_pylist()))


def read_table(path: Path) -> pd.DataFrame:
    """The whole per_image.parquet, a row an image. Error: an unreadable file exits 2."""
    table: pd.DataFrame = _read_parquet(path).to_pandas()
    return table


def _read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise BadInputError(f"sidecar {path.name} is not readable parquet: {error}") from error


def _holds_scores(column: pa.ChunkedArray) -> bool:
    return column.type == pa.float64() and column.null_count == 0 and bool(np.isfinite(column.to_numpy()).all())


def _sheet(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The images that have the size of the first, `SHEET_COLUMNS` in a row."""
    tiles = [thumbnail(image, SHEET_LARGEST) for image in images]
    return contact_sheet([tile for tile in tiles if tile.shape == tiles[0].shape], SHEET_COLUMNS, tile=SHEET_TILE)
