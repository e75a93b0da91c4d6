"""gallery.html of a ranking: lowest and highest images, score histogram, spectrum, confounders."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from minoritybench.data.source import ImageSource
from minoritybench.records import ReferenceSet
from minoritybench.report.charts import band_svg, histogram_svg
from minoritybench.report.pages import render
from minoritybench.report.pictures import Pixels, data_uri, enlarged, thumbnail

SHOWN = 60
TILE = 64
TITLES = {"jepa": "JEPA-SCORE", "avgknn": "AvgkNN", "lof": "LOF"}


def gallery_html(
    source: ImageSource,
    table: pd.DataFrame,
    members_ids: Iterable[str],
    recipe: ReferenceSet,
    spectrum: dict[str, Any],
    warnings: list[str],
) -> str:
    """A self-contained page; a pure function of the scores and images, so that resumed runs write the same bytes.

    `table` has the columns `id`, `rank` and `value`, what was ranked by, low is rare: for a ranking by neighbours the
    negative of what is shown. A cascade leaves images without a value, which are not shown, and with one but no rank.
    """
    sign = 1.0 if recipe.rank_by == "jepa" else -1.0
    ranked = table.dropna(subset=["value"]).sort_values(["value", "id"], kind="stable")
    members = set(members_ids)
    threshold = float(ranked.loc[ranked["id"].isin(members), "value"].max())
    shown = min(SHOWN, max(1, len(ranked) // 2))
    where = {name: position for position, name in enumerate(source.ids)}
    spectrum_chart = None
    if spectrum:
        deviation = np.sqrt(spectrum["log_variance"])
        spectrum_chart = band_svg(spectrum["log_mean"], deviation.tolist(), label="position i, largest first")
    return render(
        "gallery.html",
        "rank-dataset",
        recipe=recipe,
        warnings=warnings,
        title=TITLES[recipe.rank_by],
        rare=_tiles(source, where, ranked.head(shown), members, sign),
        common=_tiles(source, where, ranked.tail(shown).iloc[::-1], members, sign),
        threshold=sign * threshold,
        histogram=histogram_svg(
            ranked["value"].tolist(),
            threshold=threshold,
            label=_axis(recipe),
        ),
        spectrum=spectrum_chart,
        total=len(table),
        scored=len(ranked),
    )


def tile_uri(pixels: Pixels) -> str:
    """An image as a tile of a page: a `data:` URI, small ones enlarged."""
    return data_uri(enlarged(thumbnail(pixels, TILE), TILE))


def _axis(recipe: ReferenceSet) -> str:
    if recipe.rank_by != "jepa":
        return f"minus {TITLES[recipe.rank_by]}: low is rare"
    return "JEPA-SCORE (deflated), nats" if recipe.threshold is not None else "proxy, what was ranked by"


def _tiles(
    source: ImageSource, where: dict[str, int], rows: pd.DataFrame, members: set[str], sign: float
) -> list[dict[str, Any]]:
    ranks = [
        f"rank {rank}" if known else "no rank" for rank, known in zip(rows["rank"], rows["rank"].notna(), strict=True)
    ]
    return [
        {
            "id": row.id,
            "rank": rank,
            "score": row.shown,
            "member": row.id in members,
            "uri": tile_uri(source.load(where[str(row.id)]).pixels),
        }
        for rank, row in zip(ranks, rows.assign(shown=sign * rows["value"]).itertuples(), strict=True)
    ]
