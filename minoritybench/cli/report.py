"""minoritybench report"""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report", short_help="A page of one run: images, metrics, scores, cost.")
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    metavar="FILE.html",
    help="The page, all images in it. Default: report.html in RUN; a filed record has none.",
)
@click.option(
    "--spectrum",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=None,
    metavar="DIR",
    help="An output of `analyze scores RUN/samples`, to show the spectrum behind the scores as well.",
)
def command(run: Path, out: Path | None, spectrum: Path | None) -> None:
    """Write a stand-alone page of RUN, an output folder of `evaluate` or the folder of a filed record, or the
    record.json in it.

    \b
    Example: minoritybench report runs/jepa
    """
    from minoritybench.report.run_page import write_run_page

    click.echo(f"written to {write_run_page(run, out, spectrum)}", err=True)
