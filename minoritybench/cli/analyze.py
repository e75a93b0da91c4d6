"""minoritybench analyze scores"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from minoritybench.cli.options import (
    Registered,
    exit_on_failures,
    force_option,
    json_option,
    network_options,
    source_options,
)


@click.group("analyze", short_help="Look into scores: spectra, errors and bounds.")
def command() -> None:
    """What lies behind the scores of a dataset.

    \b
    Example: minoritybench analyze scores digits
    """


@command.command("scores")
@click.argument("dataset", type=Registered("datasets", folders=True))
@source_options
@click.option("--limit", type=click.IntRange(min=3), default=200, show_default=True, help="Only the first N images.")
@click.option(
    "--k", multiple=True, type=click.IntRange(min=2), default=(2, 4, 6, 8, 10), show_default=True, help="Ranks."
)
@click.option("--p", multiple=True, type=click.IntRange(min=0), default=(2,), show_default=True, help="Oversampling.")
@click.option(
    "--q", multiple=True, type=click.IntRange(min=0), default=(2,), show_default=True, help="Power iterations."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the probes.")
@network_options
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Folder for analysis.json and .html.")
@force_option
@json_option
def scores_command(as_json: bool, **options: Any) -> None:
    """Spectrum of DATASET's Jacobians, the error of top-k scores by randomised SVD, and the bounds of Proposition 4.1.

    --k, --p and --q can be repeated; every combination is a line of the table. With --out the same command never
    repeats finished work.

    \b
    Example: minoritybench analyze scores digits --encoder digits-ijepa --k 3 --k 9 --out runs/analysis
    """
    from minoritybench.analysis import DOCUMENT_FILE, AnalysisRequest, analyse_scores
    from minoritybench.report.spectra import spectra_text
    from minoritybench.store import pretty_json

    document = analyse_scores(AnalysisRequest(**options))
    click.echo(pretty_json(document) if as_json else spectra_text(document), nl=not as_json)
    out: Path | None = options["out"]
    if out is not None:
        click.echo(f"written to {out}", err=True)
    exit_on_failures(document["failures"], "--json" if out is None else str(out / DOCUMENT_FILE))
