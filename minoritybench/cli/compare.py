"""minoritybench compare"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from minoritybench.cli.options import RESULTS, Registered, json_option
from minoritybench.errors import BadInputError
from minoritybench.registry import entries

_START_OF_ID = re.compile(r"[0-9a-f]{8,64}")


class _RunOrReference(Registered):
    """A reference set or the path of a run; the start of a filed record's id becomes the path of that record."""

    def __init__(self) -> None:
        super().__init__("reference-sets", folders=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in entries("reference-sets") or Path(value).exists():
            return value
        if _START_OF_ID.fullmatch(value) and RESULTS.is_dir():
            from minoritybench.leaderboards import filed_record

            path, _ = filed_record(value, RESULTS, "no run folder, record file or reference set has this name, and")
            return str(path)
        try:
            super().convert(value, param, ctx)
        except BadInputError as error:
            raise BadInputError(f"{value}: no run folder and no record file is there; {error}") from error
        raise BadInputError(f"{value}: no run folder, record file or rank-dataset output is there")


@click.command("compare", short_help="Say how far two reference sets agree, or two runs differ.")
@click.argument("a", type=_RunOrReference())
@click.argument("b", type=_RunOrReference())
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    metavar="FILE.html",
    help="Reference sets: also write a page of the images only in A, in both and only in B.",
)
@json_option
def command(a: str, b: str, out: Path | None, as_json: bool) -> None:
    """Compare reference sets A and B (names or rank-dataset outputs): overlap, what chance would give, and, where both
    are outputs, the rank correlation over the images that both rankings saw.

    Or compare runs A and B (evaluate outputs, records, or in a checkout the first 8 characters or more of the ids of
    filed records): the difference of every metric with a 95 % interval, image by image where both drew from the same
    noise.

    \b
    Example: minoritybench compare runs/by-jepa runs/by-avgknn --out compare.html
             minoritybench compare runs/jepa runs/ddim
    """
    from minoritybench.run_comparison import is_run

    runs = [is_run(name) for name in (a, b)]
    if all(runs):
        if out is not None:
            raise BadInputError(f"--out: of runs `minoritybench gallery {a} {b} --out {out}` makes a page")
        _print_runs(a, b, as_json)
    elif any(runs):
        one, other = (a, b) if runs[0] else (b, a)
        raise BadInputError(f"{one} is a run and {other} is none; compare two runs or two reference sets")
    else:
        _print_references(a, b, out, as_json)


def _print_runs(a: str, b: str, as_json: bool) -> None:
    from minoritybench.run_comparison import compare_runs, comparison_text
    from minoritybench.store import pretty_json

    found = compare_runs(a, b)
    click.echo(pretty_json(found.as_dict()), nl=False) if as_json else click.echo(comparison_text(found))


def _print_references(a: str, b: str, out: Path | None, as_json: bool) -> None:
    from minoritybench.comparison import compare_references, write_gallery
    from minoritybench.store import pretty_json

    comparison = compare_references(a, b)
    if out is not None:
        write_gallery(a, b, comparison, out)
        click.echo(f"written to {out}", err=True)
    facts = {"a": a, "b": b, **comparison.as_dict()}
    click.echo(pretty_json(facts), nl=False) if as_json else click.echo(_table(facts))


def _table(facts: dict[str, Any]) -> str:
    def number(key: str, style: str) -> str:
        return "not known" if facts[key] is None else format(facts[key], style)

    rows = [
        ("A", f"{facts['a']}, {facts['n_a']} images"),
        ("B", f"{facts['b']}, {facts['n_b']} images"),
        ("in both", f"{facts['shared']} (by chance {number('expected_shared', '.1f')})"),
        ("Jaccard", number("jaccard", ".3f")),
        ("A in B", number("share_of_a_in_b", ".1%")),
        ("B in A", number("share_of_b_in_a", ".1%")),
        ("Spearman", f"{number('rank_spearman', '+.3f')} (ranks of {number('ranked', 'd')} images)"),
    ]
    if facts["rank_spearman"] is None:
        rows[-1] = ("Spearman", "not known: both must be rank-dataset outputs with three images or more ranked in both")
    lines = [f"{name:<10}{value}" for name, value in rows]
    if facts["classes"]:
        lines.append("class: only A, both, only B")
        lines += [f"  {name}: {', '.join(map(str, counts))}" for name, counts in facts["classes"].items()]
    return "\n".join(lines)
