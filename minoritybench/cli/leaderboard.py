"""minoritybench leaderboard build|check|add|badge"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from minoritybench.cli.options import RESULTS, Registered
from minoritybench.errors import BadInputError, CheckFailedError, counted

if TYPE_CHECKING:
    from minoritybench.badges import Granted
    from minoritybench.records import RunRecord

_results = click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=RESULTS,
    show_default=True,
    help="Filed records.",
)
_out = click.option(
    "--out", type=click.Path(path_type=Path), default=Path("leaderboards"), show_default=True, help="Where boards go."
)
_ALL, _NEW = "all", "new"  # words of --remeasure that no method has as its name


class _MethodOrWord(Registered):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value in (_ALL, _NEW) else super().convert(value, param, ctx)


@click.group("leaderboard", short_help="Build, check and extend the leaderboards.")
def command() -> None:
    """Measured rows are generated from the records in leaderboards/results and from nothing else.

    \b
    Example: minoritybench leaderboard check
    """


@command.command("build")
@_results
@_out
def build_command(results: Path, out: Path) -> None:
    """Write a markdown board a benchmark, index.html with all of them, and the tables between the README's markers."""
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
    type=_MethodOrWord("methods"),
    metavar="METHOD|all|new",
    default=None,
    help="Also run METHOD again on one seed, or on all of theirs every row of the board or every new record (filed"
    " since --against REF, of any board with embedded models), and compare with the records.",
)
@click.option(
    "--benchmark",
    "benchmarks",
    type=Registered("benchmarks"),
    multiple=True,
    default=("digits",),
    show_default=True,
    help="The board to remeasure on. Repeatable.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=None,
    help="The one seed to remeasure. Default: the record's first; with `all` and `new` each of them.",
)
def check_command(
    results: Path,
    out: Path,
    against: str | None,
    remeasure: str | None,
    benchmarks: tuple[str, ...],
    seed: int | None,
) -> None:
    """Validate every record, regenerate every board and compare; exit code 1 and the line where they differ."""
    from minoritybench.leaderboards import check, find_records

    if remeasure == _NEW and against is None:
        raise BadInputError("--remeasure new: say with --against since which branch or commit records are new")
    faults = check(results, out, against)
    for fault in faults:
        click.echo(fault)
    if faults:
        raise CheckFailedError(f"{counted(len(faults), 'fault')} in the leaderboards")
    click.echo(f"{len(find_records(results))} records valid, boards up to date")
    if remeasure is not None:
        new = against if remeasure == _NEW else None
        records = _rows(results, benchmarks, remeasure) if new is None else _new_records(results, new)
        _remeasure(records, None if remeasure in (_ALL, _NEW) else 1, seed)


@command.command("add")
@click.argument("record", type=click.Path(path_type=Path))
@_results
@click.option("--supersedes", default=None, metavar="ID", help="The filed record (or the start of its id) it replaces.")
def add_command(record: Path, results: Path, supersedes: str | None) -> None:
    """Validate RECORD (a record.json with its sidecars beside it, or their folder) and file it. A results folder that
    is given with --results is made where it is not there yet."""
    from minoritybench.leaderboards import add, require_results
    from minoritybench.record_files import record_file

    named = click.get_current_context().get_parameter_source("results") is not ParameterSource.DEFAULT
    if record_file(record).is_file() and not named:  # a wrong RECORD is told first, by `add`
        require_results(results)
    click.echo(f"filed in {add(record, results, supersedes)}; now run: minoritybench leaderboard build")


@command.command("badge")
@click.argument("record_id", metavar="ID")
@click.option(
    "--as",
    "badge",
    type=click.Choice(["ci", "maintainer"]),
    required=True,
    help="Who measures again: a public CI job, or a maintainer on a machine of theirs.",
)
@click.option("--by", required=True, metavar="TEXT", help="Their name, or that of the job; short and plain.")
@click.option(
    "--seed",
    "seeds",
    type=click.IntRange(min=0),
    multiple=True,
    help="A seed to measure again. Repeatable. Default: the record's first.",
)
@_results
def badge_command(record_id: str, badge: Granted, by: str, seeds: tuple[int, ...], results: Path) -> None:
    """Measure the filed record ID (the start of an id) again and, where every metric is within its tolerance, note that
    in badges.json beside the results."""
    from minoritybench.badges import add_badge, plain, read_badges
    from minoritybench.leaderboards import filed_record, record_faults
    from minoritybench.provenance import tool_record
    from minoritybench.remeasure import clean_commit, earned_badge

    try:
        plain(by)
    except ValueError as error:
        raise BadInputError(f"--by {by!r} {error}") from error
    path, record = filed_record(record_id, results, "ID")
    if faults := record_faults(path, results):  # also keeps a method file that a record names from being run
        raise CheckFailedError(f"no badge for a record with {len(faults)} faults, the first of which is {faults[0]}")
    read_badges(results)  # what is wrong with it is told before anything is measured
    clean_commit(tool_record())  # hours would be lost if only the end told
    again = _measured_again(record, sorted(set(seeds)) or record.sampling.seeds[:1])
    earned = earned_badge(record, again, badge, by)
    path = add_badge(results, earned)
    click.echo(f"{badge} badge of {record.id[:10]} noted in {path}; now run: minoritybench leaderboard build")


def _rows(results: Path, benchmarks: Sequence[str], method: str) -> list[RunRecord]:
    """The declared row of a method, or all rows, of some boards."""
    from minoritybench.leaderboards import declared_record, shown_records
    from minoritybench.records import load_benchmark

    records = []
    for benchmark in map(load_benchmark, dict.fromkeys(benchmarks)):
        if method == _ALL:
            rows = shown_records(benchmark, results)
            click.echo(f"{len(rows)} rows on the board of {benchmark.name} to measure again")
            records += rows
        else:
            records.append(declared_record(benchmark, method, results))
    return records


def _new_records(results: Path, against: str) -> list[RunRecord]:
    """The records filed since that can be measured anywhere; the others are named."""
    from minoritybench.record_files import filed_since
    from minoritybench.records import load_record
    from minoritybench.remeasure import is_embedded

    records = []
    for path in filed_since(results, against):
        record = load_record(path)
        if is_embedded(record):
            records.append(record)
        else:
            click.echo(f"{path}: not measured again, its generator or guide is not part of the package")
    click.echo(f"{len(records)} records filed since {against} to measure again")
    return records


def _remeasure(records: Sequence[RunRecord], first: int | None, requested: int | None) -> None:
    """Measure records again on the requested seed, else on the `first` of theirs or all."""
    from minoritybench.remeasure import drifts

    off = 0
    for record in records:
        seeds = record.sampling.seeds[:first] if requested is None else [requested]
        again = _measured_again(record, seeds)
        off += sum(not drift.fits for seed in seeds for drift in drifts(record, again, seed))
    if off:
        raise CheckFailedError(f"{off} metrics differ from their records beyond the tolerance")


def _measured_again(record: RunRecord, seeds: Sequence[int]) -> RunRecord:
    """Measure some seeds of a record again and tell every metric of each."""
    from minoritybench.remeasure import drifts, measure_again
    from minoritybench.report.table import row_label

    if not set(seeds) <= set(record.sampling.seeds):
        own = record.sampling.seeds
        raise BadInputError(f"--seed: the record of {record.method.name} has the seeds {own}, not {list(seeds)}")
    with tempfile.TemporaryDirectory() as folder:
        again = measure_again(record, seeds, Path(folder) / "run")
    for seed in seeds:
        label = row_label(record, record.method.params)
        click.echo(f"{label} on {record.benchmark}, record {record.id[:10]}, seed {seed}")
        for drift in drifts(record, again, seed):
            told = f"recorded {drift.recorded:10.4f}  now {drift.measured:10.4f}  allowed {drift.allowed:.4f}"
            click.echo(f"{'ok ' if drift.fits else 'OFF'} {drift.metric:<36} {told}")
    return again
