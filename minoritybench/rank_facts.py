"""What a ranking says about itself besides scores: what it may merely echo, and what a reader should be warned of."""

from __future__ import annotations

import math

import pandas as pd

from minoritybench.data.confounders import CONFOUNDERS
from minoritybench.rank_cascade import cascade_notes
from minoritybench.rank_job import FOLDER_ENCODER, RankJob, reduced_rows
from minoritybench.records import ReferenceSet
from minoritybench.scoring.validity import rank_correlation


def confounder_correlations(table: pd.DataFrame) -> dict[str, float | None]:
    """Spearman of what was ranked by with each confounder among the images that have a `value`; None where either does
    not vary."""
    table = table.dropna(subset=["value"])
    found = {name: rank_correlation(table["value"].to_numpy(), table[name].to_numpy()) for name in CONFOUNDERS}
    return {name: rho if len(table) > 2 and math.isfinite(rho) else None for name, rho in found.items()}


def ranking_warnings(job: RankJob, table: pd.DataFrame, recipe: ReferenceSet) -> list[str]:
    """One line for each thing that a reader of a ranking should know before trusting it."""
    warnings = []
    if recipe.keep.request.isdecimal() and int(recipe.keep.request) > recipe.keep.n:
        warnings.append(f"kept {recipe.keep.n} images, all that could be scored, of {recipe.keep.request} asked for")
    warnings += [
        f"the score follows {name} (Spearman {rho:+.2f}): a low one may only mean {'low' if rho > 0 else 'high'} {name}"
        for name, rho in recipe.statistics["confounders"].items()
        if rho is not None and abs(rho) > 0.5
    ]
    rho = recipe.statistics.get("knn_spearman")
    if rho is not None and rho <= 0:
        warnings.append(
            f"low scores do not lie where {recipe.encoder['name']}'s own features are sparse (Spearman with kNN density"
            f" {rho:+.2f}): with this encoder a low score may not mean rare"
        )
    if job.request.estimator == "rsvd":
        warnings.append(
            "approximate: ranked by the top-k sum of a randomised SVD (column proxy), another quantity than JEPA-SCORE"
        )
    if reduced_rows(job.request) is not None:
        warnings.append(f"approximate: {reduced_rows(job.request)}, so no score here is an exact JEPA-SCORE")
    if job.request.estimator == "cascade":
        warnings += cascade_notes(recipe.estimator)
    share = recipe.statistics["rank_deficit_share"]
    if share is not None and share > 0.01:
        found = recipe.statistics
        warnings.append(
            f"{share:.1%} of the images have singular values at zero beyond the structural ones (dead units), as have"
            f" {found['rank_deficit_members']} of the {recipe.n} kept: each counts log 1e-6, and without them"
            f" {found['members_either_way']} of these would be kept"
        )
    if job.request.encoder is None and job.source.spec.root is not None and recipe.encoder["name"] == FOLDER_ENCODER:
        warnings.append(
            f"ranked by {FOLDER_ENCODER}, which knows 8 px digits, because no encoder was named: choose one that knows"
            " such images with --encoder"
        )
    if recipe.conversions:
        listed = ", ".join(f"{count} {kind}" for kind, count in recipe.conversions.items())
        warnings.append(f"converted to 8-bit RGB: {listed}")
    seen = recipe.encoder.get("input_size")
    if seen is not None and bool((table[["width", "height"]].min(axis=1) > 4 * seen).any()):
        warnings.append(
            f"{recipe.encoder['name']} sees {seen} px images; larger ones were shrunk to that (--encoder names another)"
        )
    return warnings
