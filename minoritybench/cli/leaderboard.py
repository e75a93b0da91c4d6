"""minoritybench leaderboard build|check|add"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minoritybench.cli.options import Registered, benchmark_option
from minoritybench.errors import CheckFailedError

if TYPE_CHECKING:
    from minoritybench.records import RunRecord

_results = click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("leaderboards/results"),
    show_default=True,
    help="Filed records.",
)
_out = click.option(
    "--out", type=click.Path(path_type=Path), default=Path("leaderboards"), show_default=True, help="Where boards go."
)
_ALL = "all"


class _MethodOrAll(Registered):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == _ALL else super().convert(value, param, ctx)


@click.group("leaderboard", short_help="Build, check and extend the leaderboards.")
def command() -> None:
    """Boards are generated from the records in leaderboards/results and from nothing else.

    \b
    Example: minoritybench leaderboard check
    """


@command.command("build")
@_results
@_out
def build_command(results: Path, out: Path) -> None:
    """Write one markdown board a benchmark, and the tables between the README's markers."""
    from minoritybench.leaderboards import write_boards

    changed = write_boards(results, out)
    click.echo("\n".join(f"wrote {path}" for path in changed) if changed else "all boards are up to date")


@command.command("check")
@_results
@_out
@click.option(
    "--against",
    default=None,
    metavar="REF",
    help="A branch or commit: what it had filed where this work began must still be there, unedited.",
)
@click.option(
    "--remeasure",
    type=_MethodOrAll("methods"),
    metavar="METHOD|all",
    default=None,
    help="Also run METHOD again on one seed, or every row of the board on all of theirs, and compare with the records.",
)
@benchmark_option("The benchmark to remeasure on.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=None,
    help="The one seed to remeasure. Default: the record's first; with `all` each of them.",
)
def check_command(
    results: Path, out: Path, against: str | None, remeasure: str | None, benchmark: str, seed: int | None
) -> None:
    """Validate every record, regenerate every board and compare; exit code 1 and the line where they differ."""
    from minoritybench.leaderboards import check, find_records

    faults = check(results, out, against)
    for fault in faults:
        click.echo(fault)
    if faults:
        raise CheckFailedError(f"{len(faults)} faults in the leaderboards")
    click.echo(f"{len(find_records(results))} records valid, boards up to date")
    if remeasure is not None:
        _remeasure(results, benchmark, remeasure, seed)


@command.command("add")
@click.argument("record", type=click.Path(path_type=Path))
@_results
@click.option("--supersedes", default=None, metavar="ID", help="The filed record (or the start of its id) it replaces.")
def add_command(record: Path, results: Path, supersedes: str | None) -> None:
    """Validate RECORD (a record.json with its sidecars beside it) and file it."""
    from minoritybench.leaderboards import add

    click.echo(f"filed in {add(record, results, supersedes)}; now run: minoritybench leaderboard build")


def _remeasure(results: Path, benchmark_name: str, method: str, requested: int | None) -> None:
    from minoritybench.leaderboards import declared_record, shown_records
    from minoritybench.records import load_benchmark

    benchmark = load_benchmark(benchmark_name)
    if method == _ALL:
        records = shown_records(benchmark, results)
        click.echo(f"{len(records)} rows on the board of {benchmark_name} to measure again")
    else:
        records = [declared_record(benchmark, method, results)]
    off = 0
    for record in records:
        first = record.sampling.seeds if method == _ALL else record.sampling.seeds[:1]
        off += _drifted(record, first if requested is None else [requested])
    if off:
        raise CheckFailedError(f"{off} metrics differ from their records beyond the tolerance")


def _drifted(record: RunRecord, seeds: Sequence[int]) -> int:
    """Measure a record again and tell every metric of every seed; how many are off."""
    from minoritybench.leaderboards import drift
    from minoritybench.remeasure import measure_again
    from minoritybench.report.table import row_label

    if not set(seeds) <= set(record.sampling.seeds):
        raise CheckFailedError(f"the record of {record.method.name} has the seeds {record.sampling.seeds}, not {seeds}")
    with tempfile.TemporaryDirectory() as folder:
        again = measure_again(record, seeds, Path(folder) / "run")
    off = 0
    for seed in seeds:
        click.echo(f"{row_label(record, record.method.params)}, record {record.id[:10]}, seed {seed}")
        for name, before, after, limit in drift(record, again, seed):
            fits = abs(after - before) <= limit  # False for NaN: a metric that is gone does not fit
            off += not fits
            told = f"recorded {before:10.4f}  now {after:10.4f}  allowed {limit:.4f}"
            click.echo(f"{'ok ' if fits else 'OFF'} {name:<36} {told}")
    return off
