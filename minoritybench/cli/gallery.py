"""minoritybench gallery"""

from __future__ import annotations

from pathlib import Path

import click

from minoritybench.errors import counted


@click.command("gallery", short_help="A page of samples: a row a prompt, a column a method.")
@click.argument("runs", type=click.Path(exists=True, path_type=Path), nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE.html",
    help="The page, all images in it.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=None, help="Whose samples to show. Default: the first of the runs."
)
@click.option("--rows", type=click.IntRange(min=1), default=12, show_default=True, help="Prompts shown, the first.")
def command(runs: tuple[Path, ...], out: Path, seed: int | None, rows: int) -> None:
    """Lay the samples of several methods side by side: RUNs are outputs of `sample` or `evaluate --method` with the
    same generator, seeds and prompts.

    \b
    Example: minoritybench gallery runs/ddim runs/jepa --seed 11 --rows 20 --out samples.html
    """
    from minoritybench.report.sample_gallery import write_sample_gallery

    shown = write_sample_gallery(runs, out, seed, rows)
    click.echo(f"{counted(shown, 'row')} of {counted(len(runs), 'run')} written to {out}", err=True)
