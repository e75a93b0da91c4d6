"""minoritybench study build|tally"""

from __future__ import annotations

from pathlib import Path

import click

from minoritybench.cli.options import json_option
from minoritybench.errors import counted


@click.group("study", short_help="Ask people which of two methods' images they prefer, and count.")
def command() -> None:
    """A preference study as in arXiv:2605.24631, Table 7: a page of blinded pairs, and the count of its answers.

    \b
    Example: minoritybench study build runs/ddim runs/jepa --out study.html
    """


@command.command("build")
@click.argument("a", type=click.Path(exists=True, path_type=Path))
@click.argument("b", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="FILE.html", help="The page."
)
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    metavar="FILE.json",
    help="Which side was whose; not for raters. Default: beside the page, FILE.key.json.",
)
@click.option(
    "--prompts",
    default=None,
    metavar="FILE|hf:OWNER/NAME:FILE",
    help="One prompt a line, line i for image i. Default: those the samples were drawn for, if any.",
)
@click.option("--pairs", type=click.IntRange(min=1), default=30, show_default=True, help="Pairs shown.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Chooses, orders and lays the pairs."
)
def build_command(a: Path, b: Path, out: Path, key: Path | None, prompts: str | None, pairs: int, seed: int) -> None:
    """Write a page of image pairs of runs A and B, outputs of `sample` or `evaluate --method` with the same generator,
    seeds and prompts, and the key that says which side was whose.

    The page asks the paper's two questions of each pair and saves the answers to a file. It names no method; keep the
    key, and the seed if you choose one, from the raters.

    \b
    Example: minoritybench study build runs/ddim runs/jepa --pairs 20 --seed 7 --out study.html
    """
    from minoritybench.study import build_study

    place = out.with_suffix(".key.json") if key is None else key
    answer = build_study((a, b), out, place, prompts=prompts, pairs=pairs, order_seed=seed)
    if answer.identical:
        click.echo(f"not asked about: {counted(answer.identical, 'pair')} of equal images", err=True)
    click.echo(
        f"{counted(pairs, 'pair')} in {out} ({out.stat().st_size / 2**20:.1f} MiB); the key is {place}", err=True
    )


@command.command("tally")
@click.argument(
    "answers",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    nargs=-1,
    required=True,
    metavar="ANSWERS...",
)
@click.option(
    "--key",
    "keys",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    required=True,
    metavar="FILE.json",
    help="The key of the page; repeat it for pages of the same runs in other orders.",
)
@json_option
def tally_command(answers: tuple[Path, ...], keys: tuple[Path, ...], as_json: bool) -> None:
    """Count the files that raters saved: which method they preferred, with 95 % intervals, and how far they agree.

    \b
    Example: minoritybench study tally answers-*.json --key study.key.json
    """
    from minoritybench.store import pretty_json
    from minoritybench.study_tally import tally, tally_text

    facts = tally(answers, keys)
    click.echo(pretty_json(facts), nl=False) if as_json else click.echo(tally_text(facts))
