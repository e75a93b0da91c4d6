"""minoritybench doctor"""

from __future__ import annotations

import click

from minoritybench.cli.options import json_option


@click.command("doctor", short_help="What is installed, which weights are here, what each benchmark lacks.")
@json_option
def command(as_json: bool) -> None:
    """Say which packages, devices and weights are here and, for each benchmark, what is absent and where to get it.

    Weights are looked for, not opened, and nothing is downloaded. What one method needs for itself (`prepare`, LPIPS)
    is told by `evaluate --method M --dry-run`.

    \b
    Example: minoritybench doctor
    """
    from minoritybench.doctor import diagnose, diagnosis_text
    from minoritybench.store import pretty_json

    facts = diagnose()
    click.echo(pretty_json(facts), nl=False) if as_json else click.echo(diagnosis_text(facts))
