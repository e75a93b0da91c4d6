"""minoritybench analyze scores"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from minoritybench.cli.options import Device

_FAILED_ITEMS = 5


@click.group("analyze", short_help="Look into scores: spectra, errors and bounds.")
def command() -> None:
    """What lies behind the scores of a dataset.

    \b
    Example: minoritybench analyze scores digits
    """


@command.command("scores")
@click.argument("dataset")
@click.option("--root", type=click.Path(file_okay=False), default=None, help="Where a named dataset's files lie.")
@click.option("--split", default=None, help="Which split of a named dataset. Default: its training split.")
@click.option("--encoder", default=None, help="Encoder id or path/to/file.py:factory.")
@click.option("--weights", default=None, metavar="random|PATH", help="Weights other than the encoder's own.")
@click.option("--limit", type=click.IntRange(min=3), default=200, show_default=True, help="Only the first N images.")
@click.option(
    "--k", multiple=True, type=click.IntRange(min=2), default=(2, 4, 6, 8, 10), show_default=True, help="Ranks."
)
@click.option("--p", multiple=True, type=click.IntRange(min=0), default=(2,), show_default=True, help="Oversampling.")
@click.option(
    "--q", multiple=True, type=click.IntRange(min=0), default=(2,), show_default=True, help="Power iterations."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the probes.")
@click.option("--device", type=Device(), default="cpu", show_default=True, help="Where the encoder runs.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Precision of the encoder.",
)
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Folder for analysis.json and .html.")
@click.option("--force", is_flag=True, help="Clear different work of ours in --out and start over.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, nothing else.")
def scores_command(as_json: bool, **options: Any) -> None:
    """Spectrum of DATASET's Jacobians, the error of top-k scores by randomised SVD, and the bounds of Proposition 4.1.

    --k, --p and --q can be repeated; every combination is a line of the table. With --out the same command never
    repeats finished work.

    \b
    Example: minoritybench analyze scores digits --encoder digits-ijepa --k 3 --k 9 --out runs/analysis
    """
    from minoritybench.analysis import AnalysisRequest, analyse_scores
    from minoritybench.report.spectra import spectra_text
    from minoritybench.store import pretty_json

    document = analyse_scores(AnalysisRequest(**options))
    click.echo(pretty_json(document) if as_json else spectra_text(document), nl=not as_json)
    if options["out"] is not None:
        click.echo(f"written to {options['out']}", err=True)
    if document["failures"]:
        click.echo(f"{len(document['failures'])} images failed", err=True)
        for failure in document["failures"]:
            click.echo(f"  {failure['id']}: {failure['error']}", err=True)
        raise SystemExit(_FAILED_ITEMS)
