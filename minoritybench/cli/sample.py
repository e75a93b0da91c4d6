"""minoritybench sample"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from minoritybench.cli.options import Registered, compute_options, output_options, sampling_options
from minoritybench.errors import counted


@click.command("sample", short_help="Only the sampling stage.")
@click.option(
    "--method",
    type=Registered("methods"),
    required=True,
    help="See `minoritybench list methods`, or path/to/file.py:Class.",
)
@sampling_options
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for the PNG files and samples.json."
)
@compute_options
@output_options
def command(
    method: str,
    out: Path,
    settings: tuple[str, ...],
    chain: tuple[str, ...],
    dry_run: bool,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Draw samples into --out: one PNG an image under seed-<seed>/, and samples.json.

    \b
    Example: minoritybench sample --method bns --n 64 --seed 0 --out samples
    """
    from minoritybench.given_samples import SAMPLES_FILE
    from minoritybench.methods import parse_settings
    from minoritybench.sample_job import SampleRequest, make_plan
    from minoritybench.sampling import draw
    from minoritybench.store import folder_lock, open_output, pretty_json

    plan, facts = make_plan(
        SampleRequest(method, settings=parse_settings(settings), chain=parse_settings(chain, "--chain"), **options), out
    )
    if dry_run:
        click.echo(pretty_json(facts), nl=False)
        return
    with folder_lock(out):
        open_output(out, facts, force=force)
        outcome = draw(plan)
    if as_json:
        document = {"out": str(out), "images": len(outcome.rows), "seconds": outcome.seconds, "passes": outcome.passes}
        click.echo(pretty_json(document), nl=False)
    else:
        click.echo(f"{counted(len(outcome.rows), 'image')} and {SAMPLES_FILE} in {out}, {outcome.seconds:.1f} s")
