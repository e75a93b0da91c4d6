"""minoritybench evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from minoritybench.cli.options import Registered, command_line, compute_options, output_options, sampling_options

_LOCAL_FLAGS = frozenset({"out", "json", "as_json", "workers", "batch_size", "force", "dry_run", "engine"})


@click.command("evaluate", short_help="Sample with a method and measure it.")
@click.option(
    "--method",
    type=Registered("methods"),
    default=None,
    help="See `minoritybench list methods`, or path/to/file.py:Class.",
)
@click.option(
    "--samples",
    type=click.Path(path_type=Path),
    default=None,
    help="Images made elsewhere, instead of --method: a folder, a .zip, or an .npz with uint8 arr_0.",
)
@sampling_options
@click.option(
    "--judge", "judges", type=Registered("encoders"), multiple=True, help="A further held-out encoder. Repeatable."
)
@click.option(
    "--reference",
    type=Registered("reference-sets", folders=True),
    default=None,
    help="Registered reference set or a rank-dataset output. Default: the benchmark's.",
)
@click.option(
    "--minmax-stretch",
    is_flag=True,
    help="Stretch every sample to the full 8-bit range before it is measured, as the published code saved its images.",
)
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Output folder. Default: runs/<content id>.")
@compute_options
@output_options
def command(
    method: str | None,
    samples: Path | None,
    judges: tuple[str, ...],
    reference: str | None,
    minmax_stretch: bool,
    out: Path | None,
    settings: tuple[str, ...],
    chain: tuple[str, ...],
    workers: int,
    dry_run: bool,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Sample with a method, measure the samples against the reference set and leave record.json in --out.

    \b
    Example: minoritybench evaluate --method jepa --set eta=2 --seed 0 --seed 1 --seed 2
    """
    from minoritybench.evaluate_job import EvaluateRequest, prepare_job
    from minoritybench.evaluation import run_job
    from minoritybench.methods import parse_settings
    from minoritybench.report.table import metric_table
    from minoritybench.sample_job import SampleRequest
    from minoritybench.store import pretty_json

    request = SampleRequest(
        method or "",
        settings=parse_settings(settings),
        chain=parse_settings(chain, "--chain"),
        workers=workers,
        **options,
    )
    said = command_line(click.get_current_context(), without=_LOCAL_FLAGS)
    job = prepare_job(EvaluateRequest(request, samples, reference, judges, out, workers, force, said, minmax_stretch))
    if dry_run:
        facts = {"out": str(job.out), **{key: value for key, value in job.plan.items() if key != "format"}}
        click.echo(pretty_json(facts), nl=False)
        return
    record = run_job(job)
    for warning in record.warnings:
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        click.echo(pretty_json(record.model_dump(mode="json")), nl=False)
    else:
        click.echo(metric_table(record))
        click.echo(f"written to {job.out}", err=True)
