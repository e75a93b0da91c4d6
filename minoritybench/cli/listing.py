"""minoritybench list"""

from __future__ import annotations

import json

import click

from minoritybench.errors import BadInputError
from minoritybench.registry import KINDS, entries

_SHOWN = tuple(kind for kind in KINDS if kind != "features")


@click.command("list", short_help="List registered names.")
@click.argument("kind", required=False, metavar="KIND")
@click.option("--json", "as_json", is_flag=True, help="A JSON list of {name, summary}.")
def command(kind: str | None, as_json: bool) -> None:
    """List what is registered. KIND: datasets, encoders, generators, methods, metrics, benchmarks or reference-sets.

    \b
    Example: minoritybench list methods
    """
    if kind is None:
        raise BadInputError(f"Missing argument 'KIND': one of {', '.join(_SHOWN)}")
    if kind not in _SHOWN:
        import difflib

        near = difflib.get_close_matches(kind, _SHOWN, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise BadInputError(f"unknown kind {kind!r}: one of {', '.join(_SHOWN)}{hint}")
    found = sorted(entries(kind).items())
    if as_json:
        click.echo(json.dumps([{"name": name, "summary": entry.summary} for name, entry in found], indent=2))
        return
    width = max(len(name) for name, _ in found)
    for name, entry in found:
        click.echo(f"{name:<{width}}  {entry.summary}")
