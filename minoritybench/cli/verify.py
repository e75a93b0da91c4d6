"""minoritybench verify"""

from __future__ import annotations

import click

from minoritybench.cli.options import Registered, json_option


@click.command("verify", short_help="Check a reference set.")
@click.argument("reference", type=Registered("reference-sets", folders=True))
@click.option(
    "--root",
    type=click.Path(exists=True),
    default=None,
    help="Where its images lie now, if not where they were ranked.",
)
@json_option
def command(reference: str, root: str | None, as_json: bool) -> None:
    """Check that REFERENCE (a name or a rank-dataset output) has the digest it states and that every member's image is
    there, unchanged. Exit code 1 if some are not, 4 if the place they lie in is gone.

    \b
    Example: minoritybench verify digits
    """
    from minoritybench.references import load_reference_set
    from minoritybench.store import pretty_json

    loaded = load_reference_set(reference, root)
    checked = sum(1 for _ in loaded.each_image())
    recipe = loaded.recipe
    if as_json:
        click.echo(
            pretty_json({"name": recipe.name, "n": recipe.n, "sha256": recipe.sha256, "images_checked": checked}),
            nl=False,
        )
    else:
        click.echo(f"{recipe.name}: {recipe.n} members, index {recipe.sha256[:16]}, all images present and unchanged")
