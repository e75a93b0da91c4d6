"""How far two reference sets agree: generator-centric against world-centric, say, or two encoders.

Reference: arXiv:2605.24631, Figures 2 and 4, which show such pairs of sets side by side.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from minoritybench.errors import BadInputError
from minoritybench.references import SCORES_FILE, LoadedReference, load_reference_set, reference_folder
from minoritybench.report.gallery import SHOWN, tile_uri
from minoritybench.report.pages import refuse_other_file, render
from minoritybench.scoring.validity import rank_correlation
from minoritybench.store import write_text

_COMMAND = "compare"


@dataclass(frozen=True)
class Comparison:
    """Overlap of sets A and B. An image is shared if both hold it under the same id with the same content.

    `expected_shared` is what two independent random choices of these sizes from the `population`, the images that both
    rankings saw, would share on average; `rank_spearman` compares the two rankings over the `ranked` images of it that
    have a rank in both. None where the rankings are not there to say (a registered set has no scores) and the sets do
    not stem from the same images. `classes` counts members by folder: only A, both, only B; empty where ids have none.
    """

    n_a: int
    n_b: int
    shared: int
    jaccard: float
    share_of_a_in_b: float
    share_of_b_in_a: float
    population: int | None
    expected_shared: float | None
    ranked: int | None
    rank_spearman: float | None
    classes: dict[str, tuple[int, int, int]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def compare_references(a: str | Path, b: str | Path) -> Comparison:
    """Compare two reference sets, each a registered name or a `rank-dataset` folder."""
    first, second = load_reference_set(a), load_reference_set(b)
    ours, theirs = _identities(first.members), _identities(second.members)
    shared = ours & theirs
    rankings = _common_ranks(reference_folder(a), reference_folder(b))
    population: set[tuple[str, str]] | None = None
    size, ranked, spearman = None, None, None
    if rankings is not None:
        population = _identities(rankings)
        size = len(population)
        both = rankings.dropna(subset=["rank_a", "rank_b"])
        ranked, spearman = len(both), _spearman(both)
    elif first.recipe.dataset.get("sha256") == second.recipe.dataset.get("sha256") is not None:
        size = int(first.recipe.dataset["n"])
    inside = [len(group if population is None else group & population) for group in (ours, theirs)]
    return Comparison(
        n_a=len(ours),
        n_b=len(theirs),
        shared=len(shared),
        jaccard=len(shared) / len(ours | theirs),
        share_of_a_in_b=len(shared) / len(ours),
        share_of_b_in_a=len(shared) / len(theirs),
        population=size,
        expected_shared=inside[0] * inside[1] / size if size else None,
        ranked=ranked,
        rank_spearman=spearman,
        classes=_classes(ours, theirs),
    )


def write_gallery(a: str | Path, b: str | Path, comparison: Comparison, out: Path) -> None:
    """A self-contained page of the rarest images only in A, in both and only in B. Errors: absent images exit 4, a file
    that is not such a page is not replaced (exit 2)."""
    refuse_other_file(out, _COMMAND)
    first, second = load_reference_set(a), load_reference_set(b)
    ours, theirs = _identities(first.members), _identities(second.members)
    groups = [
        ("Only in A", _tiles(first, ours - theirs), len(ours - theirs)),
        ("In both", _tiles(first, ours & theirs), len(ours & theirs)),
        ("Only in B", _tiles(second, theirs - ours), len(theirs - ours)),
    ]
    page = render(
        "compare.html",
        _COMMAND,
        labels={"A": _label(first), "B": _label(second)},
        comparison=comparison,
        groups=groups,
    )
    write_text(out, page)


def _identities(table: pd.DataFrame) -> set[tuple[str, str]]:
    return set(zip(table["id"].astype(str), table["sha256"].astype(str), strict=True))


def _common_ranks(a: Path, b: Path) -> pd.DataFrame | None:
    """Images that both rankings saw: `id`, `sha256`, `rank_a`, `rank_b`; None where a ranking is not there."""
    files = [folder / SCORES_FILE for folder in (a, b)]
    if not all(file.is_file() for file in files):
        return None
    try:
        first, second = (pd.read_parquet(file, columns=["id", "sha256", "rank"]) for file in files)
    except (OSError, ValueError) as error:
        raise BadInputError(f"{SCORES_FILE} cannot be read: {' '.join(str(error).split())}") from error
    return first.merge(second, on=["id", "sha256"], suffixes=("_a", "_b"))


def _spearman(ranked: pd.DataFrame) -> float | None:
    if len(ranked) < 3:
        return None
    return rank_correlation(ranked["rank_a"].to_numpy(dtype=np.int64), ranked["rank_b"].to_numpy(dtype=np.int64))


def _classes(ours: set[tuple[str, str]], theirs: set[tuple[str, str]]) -> dict[str, tuple[int, int, int]]:
    if not all("/" in name for name, _ in ours | theirs):
        return {}
    counts = [Counter(name.rpartition("/")[0] for name, _ in group) for group in (ours - theirs, ours & theirs)]
    counts.append(Counter(name.rpartition("/")[0] for name, _ in theirs - ours))
    return {name: (counts[0][name], counts[1][name], counts[2][name]) for name in sorted(set().union(*counts))}


def _tiles(reference: LoadedReference, group: set[tuple[str, str]]) -> list[dict[str, Any]]:
    members = reference.members
    chosen = members[members["id"].isin({name for name, _ in group})].head(SHOWN)
    if chosen.empty:
        return []
    images = replace(reference, members=chosen).images()
    rows = zip(chosen["id"], chosen["rank"], images, strict=True)
    return [{"id": name, "rank": rank, "uri": tile_uri(image.pixels)} for name, rank, image in rows]


def _label(reference: LoadedReference) -> str:
    recipe = reference.recipe
    return f"{recipe.name}: {recipe.n} of {recipe.dataset['n']}, by {recipe.rank_by} with {recipe.encoder['name']}"
