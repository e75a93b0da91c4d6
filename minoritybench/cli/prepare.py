"""minoritybench prepare"""

from __future__ import annotations

from typing import Any

import click

from minoritybench.cli.options import Device, Registered, benchmark_option, json_option


@click.command("prepare", short_help="Build what a method needs.")
@click.argument("method", type=Registered("methods"))
@benchmark_option("See `minoritybench list benchmarks`.")
@click.option(
    "--generator",
    type=Registered("generators"),
    default=None,
    help="See `minoritybench list generators`. Default: the benchmark's.",
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A hyperparameter of the method, or preset=NAME."
)
@click.option("--class-conditional", is_flag=True, help="What the method needs to sample by class.")
@click.option("--root", type=click.Path(file_okay=False), default=None, help="Where named datasets' files lie.")
@click.option("--device", type=Device(), default="cpu", show_default=True, help="Where the networks run.")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="What runs the shards; ray needs the extra minoritybench[ray].",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes, or Ray actors, that read, score and sample; never changes a result.",
)
@click.option("--dry-run", is_flag=True, help="Say what is needed and what is there, and stop.")
@click.option("--force", is_flag=True, help="Build anew what is there; a shipped part stays the one that is used.")
@json_option
def command(settings: tuple[str, ...], dry_run: bool, as_json: bool, **options: Any) -> None:
    """Build what METHOD needs before it can sample on a benchmark: minority scores, classifiers of noised images.

    The parts are looked for among those that are shipped, then in $MINORITYBENCH_CACHE/prepared, where new ones go.
    Each belongs to the settings it depends on and to the generator's weights. A killed run goes on where it was.

    \b
    Example: minoritybench prepare mg --benchmark digits --set levels=10
    """
    from minoritybench.methods import parse_settings
    from minoritybench.prepare import PrepareRequest, plan_parts, prepare_parts
    from minoritybench.store import pretty_json

    request = PrepareRequest(settings=parse_settings(settings), **options)
    if dry_run:
        click.echo(pretty_json([job.as_dict() for job in plan_parts(request)]), nl=False)
        return
    outcomes = prepare_parts(request)
    if as_json:
        click.echo(pretty_json([outcome.as_dict() for outcome in outcomes]), nl=False)
        return
    if not outcomes:
        click.echo(f"{request.method} needs nothing prepared on {request.benchmark}")
    for outcome in outcomes:
        state = f"built in {outcome.seconds:.1f} s" if outcome.built else "there already"
        click.echo(f"{outcome.part}: {state}, sha256 {outcome.sha256[:16]}, {outcome.path}")
        for line in _figures(outcome.facts.get("held_out")):
            click.echo(f"  {line}")


def _figures(held_out: dict[str, Any] | None) -> list[str]:
    """Accuracy by noise level, beside chance."""
    if held_out is None:
        return []
    levels = ", ".join(f"{value:.1%} at timestep {level}" for level, value in held_out["accuracy"].items())
    return [f"accuracy on {held_out['images']} held-out images: {levels} (chance {held_out['chance']:.1%})"]
