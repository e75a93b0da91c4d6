"""minoritybench rank-dataset"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from minoritybench.cli.options import (
    Registered,
    command_line,
    compute_options,
    exit_on_failures,
    output_options,
    source_options,
)
from minoritybench.errors import MissingAssetError

_CASCADE_TIME = (
    "the time is that of the exact ranking, an upper bound for a cascade; one that can save nothing takes up to a"
    " sixteenth more"
)
_NEIGHBOUR_TITLES = {"avgknn": "AvgkNN", "lof": "LOF"}


@click.command("rank-dataset", short_help="Score a dataset and keep the rarest.")
@click.argument("dataset", type=Registered("datasets", folders=True))
@source_options
@click.option(
    "--estimator",
    type=click.Choice(["exact", "rsvd", "cascade"]),
    default="exact",
    show_default=True,
    help="rsvd: top k only. cascade: exact for the lowest part, a proxy says which part that is.",
)
@click.option(
    "--rank-by",
    type=click.Choice(["jepa", "avgknn", "lof"]),
    default="jepa",
    show_default=True,
    help="What rarity means: low JEPA-SCORE (world-centric), or distance from neighbours in feature space"
    " (--encoder may then name a feature extractor, too).",
)
@click.option(
    "--keep", default=None, metavar="N|P%", help="How many of the lowest to keep. Default: the benchmark's, or 10%."
)
@click.option(
    "--per-class", type=click.IntRange(min=1), default=None, help="Keep the lowest N of every class folder instead."
)
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Output folder. Default: runs/<content id>.")
@click.option("--limit", type=click.IntRange(min=1), default=None, help="Only the first N images.")
@click.option(
    "--shard-size", type=click.IntRange(min=1), default=256, show_default=True, help="Images a unit of resumable work."
)
@click.option("--download", is_flag=True, help="Fetch the dataset if it is absent. Without this nothing is downloaded.")
@compute_options
@output_options
def command(dry_run: bool, as_json: bool, download: bool, **options: Any) -> None:
    """Score every image of DATASET by JEPA-SCORE and keep the lowest as a world-minority reference set.

    DATASET is a registered name, hf:OWNER/NAME[:CONFIG], a folder of images or a zip of them. With --rank-by avgknn or
    lof it ranks by how far an image lies from the others in feature space instead: the generator-centric counterpart.
    Leaves scores.parquet, reference_set.json, members.csv, failures.csv and gallery.html in --out. The same command
    resumes a stopped run and never repeats a finished one.

    \b
    Example: minoritybench rank-dataset digits --keep 10%
    """
    from minoritybench.rank import FAILURES_FILE, run_job
    from minoritybench.rank_job import RankRequest, prepare_job

    if download and not dry_run:
        from minoritybench.data.download import fetch

        fetch(options["dataset"], options["root"])
    try:
        job = prepare_job(RankRequest(**options))
    except MissingAssetError as error:
        again = command_line(click.get_current_context(), without=frozenset({"dry_run"}))
        raise MissingAssetError(f"{error}; then run: {again}") from error
    if dry_run:
        _print(_forecast(job) if as_json else _forecast_text(_forecast(job)), as_json)
        return
    outcome = run_job(job)
    for warning in outcome.warnings:
        click.echo(f"warning: {warning}", err=True)
    recipe = outcome.reference_set
    if as_json:
        click.echo(f"written to {outcome.out}", err=True)
        _print({**recipe.model_dump(mode="json"), "cost": outcome.cost}, as_json)
    else:
        _print(_summary(outcome), as_json)
    exit_on_failures(outcome.failures, str(outcome.out / FAILURES_FILE))


def _forecast(job: Any) -> dict[str, Any]:
    from minoritybench.rank_estimate import estimate

    return {
        "dataset": job.request.dataset,
        "images": job.images,
        "shards": job.shards,
        "out": str(job.out),
        "encoder": job.encoder_name,
        **estimate(job),
        **({"note": _CASCADE_TIME} if job.request.estimator == "cascade" else {}),
    }


def _forecast_text(facts: dict[str, Any]) -> str:
    trial, seconds = facts.pop("calibration"), facts.pop("estimated_seconds")
    took = "unknown: none of the first images could be read"
    if seconds is not None:
        took = f"about {seconds:.0f} s, an estimate from {trial['images']} images scored in {trial['seconds']:.2f} s"
    facts |= {"time": took, "disk": f"about {facts.pop('estimated_bytes') / 1e6:.1f} MB, an estimate"}
    return "\n".join(f"{key}: {value}" for key, value in facts.items())


def _summary(outcome: Any) -> str:
    recipe = outcome.reference_set
    threshold = "" if recipe.threshold is None else f", at or below {recipe.threshold:.2f}"
    what = "(deflated, nats)" if recipe.threshold is not None else "(approximate, see proxy)"
    title, end = ("JEPA-SCORE", "lowest")
    if recipe.rank_by != "jepa":
        title, end, what = _NEIGHBOUR_TITLES[recipe.rank_by], "highest", "(column proxy, high is rare)"
    rho = recipe.statistics.get("knn_spearman")
    rows = [
        ("dataset", f"{recipe.dataset['name']}, {recipe.dataset['n']} images"),
        ("encoder", recipe.encoder["name"]),
        (title, f"mean {recipe.statistics['mean']:.2f}, sd {recipe.statistics['std']:.2f} {what}"),
        ("kept", f"{recipe.n} {end} ({recipe.keep.request}){threshold}"),
        *([] if rho is None else [("kNN rho", f"{rho:+.2f} with kNN density in the encoder's own features")]),
        ("index", recipe.sha256[:16]),
        ("seconds", f"{outcome.cost['seconds']:.1f}"),
        ("written to", str(outcome.out)),
    ]
    return "\n".join(f"{name:<11}{value}" for name, value in rows)


def _print(document: Any, as_json: bool) -> None:
    from minoritybench.store import pretty_json

    click.echo(pretty_json(document), nl=False) if as_json else click.echo(document)
