"""Flags that several commands share, and how they tell of images that failed."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from minoritybench.errors import counted
from minoritybench.registry import entries, lookup, method_names

Command = TypeVar("Command", bound=Callable[..., Any])

RESULTS = Path("leaderboards/results")
"""Where a checkout has its filed records."""
FAILED_ITEMS = 5
"""Exit code of a command that finished without some of its images."""
_FAILURES_SHOWN = 5


class BatchSize(click.ParamType):  # type: ignore[type-arg]  # generic only in recent click
    """A positive integer, or `auto` (None)."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value is None or isinstance(value, int) or value == "auto":
            return None if value == "auto" else value
        if not str(value).isdecimal() or int(value) < 1:
            self.fail(f"{value!r} is neither a positive integer nor 'auto'", param, ctx)
        return int(value)


class Device(click.ParamType):  # type: ignore[type-arg]
    """A torch device name, checked to be one that is there."""

    name = "D"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "cpu":
            return value  # always there: a mistake in another flag is told before torch is imported

        import torch

        if str(value).startswith("meta"):
            self.fail("'meta' holds no data, so nothing can be computed on it", param, ctx)
        try:
            device = torch.device(value)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            self.fail(f"{value!r} cannot be used here: {reason}", param, ctx)
        return str(value)


class Registered(click.ParamType):  # type: ignore[type-arg]
    """A name registered under one of some `kinds`, or `path/to/file.py:attribute`; with `folders` a path as well.

    Only the names are looked at, so that a wrong one is told at once; what it stands for is imported by the command.
    """

    name = "text"

    def __init__(self, *kinds: str, folders: bool = False) -> None:
        self.kinds = kinds
        self.folders = folders

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        is_path = "/" in value or "\\" in value or (self.folders and Path(value).exists())
        if not (is_path or ".py" in value or any(value in entries(kind) for kind in self.kinds)):
            for name in method_names(value) if "methods" in self.kinds else [value]:
                lookup(self.kinds[0], name)  # a family such as timm:MODEL, or an error with a suggestion
        return value


def command_line(ctx: click.Context, without: frozenset[str] = frozenset()) -> str:
    """The command as it was given, to be run again: its arguments and given flags, less the parameters in `without`."""
    words = ["minoritybench", str(ctx.command.name)]
    for parameter in ctx.command.params:
        name = parameter.name or ""
        source = ctx.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE" or name in without:
            continue
        value, flag = ctx.params[name], parameter.opts[0]
        if isinstance(value, bool):
            words.append(flag)
            continue
        for item in value if isinstance(value, tuple) else (value,):
            words += [str(item)] if isinstance(parameter, click.Argument) else [flag, str(item)]
    return shlex.join(words)


def exit_on_failures(failures: Sequence[dict[str, str]], where: str) -> None:
    """Name the first failed images (`id`, `error`) on stderr, say `where` all of them stand, and exit with code 5;
    nothing happens where none failed."""
    if not failures:
        return
    click.echo(f"{counted(len(failures), 'image')} failed, see {where}", err=True)
    for failure in failures[:_FAILURES_SHOWN]:
        click.echo(f"  {failure['id']}: {failure['error']}", err=True)
    raise SystemExit(FAILED_ITEMS)


def _stacked(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, nothing else.")
force_option = click.option("--force", is_flag=True, help="Clear different work of ours in --out and start over.")

source_options = _stacked(
    click.option("--root", type=click.Path(file_okay=False), default=None, help="Where a named dataset's files lie."),
    click.option("--split", default=None, help="Which split of a named dataset. Default: its training split."),
    click.option(
        "--encoder",
        type=Registered("encoders", "features"),
        default=None,
        help="Encoder id or path/to/file.py:factory.",
    ),
    click.option("--weights", default=None, metavar="random|PATH", help="Weights other than the encoder's own."),
)

network_options = _stacked(
    click.option("--device", type=Device(), default="cpu", show_default=True, help="Where the networks run."),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "float64", "bfloat16", "float16"]),
        default="float32",
        show_default=True,
        help="Precision of the networks; float16 for latent generators on a GPU.",
    ),
)

compute_options = _stacked(
    click.option(
        "--batch-size",
        type=BatchSize(),
        default="auto",
        show_default=True,
        help="Images handled at a time. On a CPU rounded up to whole micro-batches, and never changes a result; on a"
        " GPU results agree within a tolerance.",
    ),
    network_options,
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="What runs the shards; ray needs the extra minoritybench[ray].",
    ),
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Processes, or Ray actors; never changes a result.",
    ),
)


def benchmark_option(text: str) -> Callable[[Command], Command]:
    """`--benchmark` with a help text."""
    return click.option("--benchmark", type=Registered("benchmarks"), default="digits", show_default=True, help=text)


sampling_options = _stacked(
    benchmark_option("See `minoritybench list benchmarks`."),
    click.option("--n", type=click.IntRange(min=1), default=None, help="Samples a seed. Default: the benchmark's."),
    click.option(
        "--seed", "seeds", type=click.IntRange(min=0), multiple=True, help="Repeatable. Default: the benchmark's three."
    ),
    click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A hyperparameter of the method, or preset=NAME."
    ),
    click.option(
        "--prompts",
        default=None,
        metavar="FILE|hf:OWNER/NAME:FILE",
        help="Text-to-image: one prompt a line, an image each. Default: the benchmark's.",
    ),
    click.option(
        "--chain",
        multiple=True,
        metavar="KEY=VALUE",
        help="Text-to-image: guidance_scale, spacing, ending, start or alpha_shift other than the benchmark's.",
    ),
    click.option("--class-conditional", is_flag=True, help="Condition on labels drawn for each image."),
    click.option(
        "--generator",
        type=Registered("generators"),
        default=None,
        help="See `minoritybench list generators`. Default: the benchmark's.",
    ),
    click.option(
        "--compile", is_flag=True, help="Run the generator through torch.compile; images agree within a tolerance."
    ),
    click.option(
        "--guide", type=Registered("encoders"), default=None, help="Encoder that guides. Default: the benchmark's."
    ),
)

output_options = _stacked(
    click.option("--dry-run", is_flag=True, help="Say what would be done and stop."),
    force_option,
    json_option,
)
