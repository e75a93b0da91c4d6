"""What stands beside a run record: per-image values and a sheet of the first images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from minoritybench.measure_shard import MODES, score_key
from minoritybench.records import Artifact
from minoritybench.report.pictures import contact_sheet, png_bytes, thumbnail
from minoritybench.store import atomic_path, sha256_file, write_bytes

PER_IMAGE_FILE = "per_image.parquet"
SHEET_FILE = "sheet.png"
SHEET_IMAGES = 64
_SHEET_TILE = 128


def write_sidecars(
    out: Path,
    first: Sequence[NDArray[np.uint8]],
    rows: Sequence[Mapping[str, Any]],
    encoders: Sequence[str],
    measured: Mapping[str, NDArray[Any]],
) -> list[Artifact]:
    """Write per_image.parquet and sheet.png into `out`; each is listed with its digest.

    The table has a row an image: `seed, index, label, sha256` and every encoder's two scores. The sheet shows `first`.
    """
    table = pd.DataFrame(rows)[["seed", "index", "label", "sha256"]].astype({"seed": "Int64", "label": "Int64"})
    for encoder in encoders:
        for mode in MODES:
            table[score_key(encoder, mode)] = measured[score_key(encoder, mode)]
    with atomic_path(out / PER_IMAGE_FILE) as part:
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None), part)
    write_bytes(out / SHEET_FILE, png_bytes(_sheet(first[:SHEET_IMAGES])))
    return [
        Artifact(path=name, sha256=sha256_file(out / name), bytes=(out / name).stat().st_size)
        for name in (PER_IMAGE_FILE, SHEET_FILE)
    ]


def _sheet(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The images that have the size of the first, eight in a row."""
    tiles = [thumbnail(image, _SHEET_TILE) for image in images]
    return contact_sheet([tile for tile in tiles if tile.shape == tiles[0].shape], columns=8, tile=32)
