"""What a ranking makes of f(x): rarity among neighbours, and the figure that says whether the score is a density."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load_file

from minoritybench.metrics.neighbours import AVGKNN_K, local_outlier_factor, mean_neighbour_distance
from minoritybench.rank_shard import FEATURES, features_file
from minoritybench.scoring.validity import MOST_IMAGES, knn_spearman

RARITY: dict[str, Callable[[NDArray[Any]], NDArray[np.float64]]] = {
    "avgknn": mean_neighbour_distance,
    "lof": local_outlier_factor,
}
"""Generator-centric rarity by the name of `--rank-by`: features `(N, d)` to values `(N,)`, high is rare."""


def load_features(shards: Iterable[Path], ids: Iterable[str]) -> NDArray[np.float32]:
    """f(x) `(N, d)` of some ranked images, in the order of `ids`, from the files beside their shards' parquet files."""
    wanted = {name: row for row, name in enumerate(ids)}
    rows: dict[int, NDArray[np.float32]] = {}
    for shard in shards:
        names = pq.read_table(shard, columns=["id"])["id"].to_pylist()
        here = [(position, wanted[name]) for position, name in enumerate(names) if name in wanted]
        if here:
            features = load_file(features_file(shard))[FEATURES]
            rows |= {row: features[position] for position, row in here}
    return np.stack([rows[row] for row in range(len(wanted))])


def density_agreement(shards: Iterable[Path], table: pd.DataFrame) -> dict[str, float | int | None]:
    """`knn_spearman`, the rank correlation of what was ranked by (`value`) with kNN density in the encoder's own
    features, and `knn_images`, among how many images.

    Above 5,000, the images with the lowest content digests stand for all: a choice that is random with respect to what
    they show, and the same everywhere. None where there are too few images, or one of the two does not vary.
    """
    ranked = table.dropna(subset=["value"])
    chosen = ranked.sort_values(["sha256", "id"], kind="stable").head(MOST_IMAGES).sort_values("id", kind="stable")
    if len(chosen) <= AVGKNN_K:
        return {"knn_spearman": None, "knn_images": len(chosen)}
    rho = knn_spearman(chosen["value"].to_numpy(dtype=np.float64), load_features(shards, chosen["id"]))
    return {"knn_spearman": rho if math.isfinite(rho) else None, "knn_images": len(chosen)}
