"""analysis.html: the spectrum of a dataset and the error of top-k scores; and the same table as plain text."""

from __future__ import annotations

from typing import Any

from minoritybench.report.charts import band_svg
from minoritybench.report.pages import render

COLUMNS = (
    ("k", "k", "d"),
    ("p", "p", "d"),
    ("q", "q", "d"),
    ("error", "JS-JSbar", ".2f"),
    ("e_rsvd", "e_RSVD", ".3f"),
    ("e_trunc", "e_Trunc", ".2f"),
    ("e_trunc_delta", "e_Trunc^D", ".2f"),
    ("bound_rsvd", "E_RSVD", ".2f"),
    ("bound_trunc", "E_Trunc", ".2f"),
    ("offset_ratio", "R^D_trunc", ".2%"),
    ("violated", "violated", "d"),
    ("spearman_top_k", "rho top-k", ".3f"),
    ("r2_top_k", "R2 top-k", ".3f"),
    ("spearman_rsvd", "rho RSVD", ".3f"),
    ("r2_rsvd", "R2 RSVD", ".3f"),
)
"""Field, heading and format of each column; the first ten are those of Table 5 of arXiv:2605.24631."""
_STATISTICS = ("mean", "variance", "cumulative")
_SHOWN = (1, 2, 4, 9, 13, 16, 32, 64, 128, 256, 384)


def error_rows(document: dict[str, Any]) -> list[list[str]]:
    """The cells of the error table, headings first."""
    rows = [[heading for _, heading, _ in COLUMNS]]
    for case in document["cases"]:
        rows.append(["-" if case[field] is None else format(case[field], kind) for field, _, kind in COLUMNS])
    return rows


def spectrum_rows(document: dict[str, Any]) -> list[list[str]]:
    """The cells of the spectrum table at a few positions, headings first."""
    facts, total = document["spectrum"], document["singular_values"]
    rows = [["i", "E sigma", "Var sigma", "cumulative", "E log", "Var log", "cumulative"]]
    for place in sorted({*(i for i in _SHOWN if i <= total), total}):
        values = [
            facts[name][place - 1]
            for name in (
                "sigma_mean",
                "sigma_variance",
                "sigma_cumulative",
                "log_mean",
                "log_variance",
                "log_cumulative",
            )
        ]
        rows.append([str(place), *(f"{value:.4g}" for value in values)])
    return rows


def legend(document: dict[str, Any]) -> list[str]:
    """What the columns of both tables are, a line a group of columns."""
    return [
        "E, Var: mean and variance over images of the i-th largest singular value sigma_i and of log sigma_i;"
        " cumulative: the share of the total variance that positions 1 to i hold.",
        "k, p, q: rank, oversampling and power iterations of the randomised SVD.",
        "JS-JSbar: the whole score less the top-k score by randomised SVD, in nats, = e_RSVD (the k values found too"
        " small) + e_Trunc (the values left out). Means over images, as are all terms.",
        "E_RSVD, E_Trunc: the bounds of Proposition 4.1 on e_RSVD and e_Trunc; violated: images that exceed them.",
        "e_Trunc^D: e_Trunc without its offset, the sum of log sigma_i from i ="
        f" {document['offset_from']} (or k + 1, if later); R^D_trunc: the offset's share of e_Trunc.",
        "rho, R2: rank correlation and squared correlation with the whole score, over images, of the exact top-k score"
        " (top-k) and of that by randomised SVD (RSVD); -: undefined.",
    ]


def verdict(document: dict[str, Any]) -> str:
    """What was seen of Proposition 4.1; a statement on these cases only, for its constant holds in expectation."""
    seen = document["proposition_4_1"]
    if seen["violated"] == 0:
        return f"Proposition 4.1 holds on these {seen['checked']} cases (images times settings)."
    return f"Proposition 4.1 is violated in {seen['violated']} of {seen['checked']} cases (images times settings)."


def spectra_text(document: dict[str, Any]) -> str:
    """Both tables as aligned plain text, and what their columns are."""
    head = (
        f"{document['dataset']['name']}, {document['dataset']['images']} images, {document['encoder']['name']}:"
        f" {document['singular_values']} singular values that are not structurally zero"
    )
    tables = [_aligned(spectrum_rows(document)), "", _aligned(error_rows(document))]
    return "\n".join([head, "", *tables, "", *legend(document), "", verdict(document)])


def spectra_html(document: dict[str, Any]) -> str:
    """A self-contained page."""
    facts = document["spectrum"]
    deviation = [value**0.5 for value in facts["log_variance"]]
    flat = [0.0] * document["singular_values"]
    charts = [
        ("Mean of log sigma with one standard deviation", band_svg(facts["log_mean"], deviation, label="position i")),
        ("Mean of sigma", band_svg(facts["sigma_mean"], flat, label="position i")),
        ("Variance of sigma", band_svg(facts["sigma_variance"], flat, label="position i")),
        ("Variance of log sigma", band_svg(facts["log_variance"], flat, label="position i")),
        ("Cumulative share of the variance of sigma", band_svg(facts["sigma_cumulative"], flat, label="position i")),
        ("Cumulative share of the variance of log sigma", band_svg(facts["log_cumulative"], flat, label="position i")),
    ]
    return render(
        "spectra.html",
        "analyze scores",
        document=document,
        charts=charts,
        errors=error_rows(document),
        spectrum=spectrum_rows(document),
        legend=legend(document),
        verdict=verdict(document),
    )


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
