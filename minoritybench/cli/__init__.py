"""The command line. Importing it loads neither torch nor pandas: commands are imported when they are called."""

from __future__ import annotations

import importlib
import logging
import sys

import click

from minoritybench import __version__
from minoritybench.errors import MinorityBenchError

_COMMANDS = {
    "rank-dataset": ("minoritybench.cli.rank", "Score a dataset by JEPA-SCORE and keep the rarest as a reference set."),
    "evaluate": ("minoritybench.cli.evaluate", "Sample with a method and measure it against a reference set."),
    "sample": ("minoritybench.cli.sample", "Only the sampling stage: PNG files and samples.json."),
    "prepare": ("minoritybench.cli.prepare", "Build what a method needs before it can sample: scores, classifiers."),
    "leaderboard": ("minoritybench.cli.leaderboard", "Build, check and extend the leaderboards."),
    "compare": ("minoritybench.cli.compare", "Say how far two reference sets agree, or two runs differ."),
    "report": ("minoritybench.cli.report", "A page of one run: images, metrics, scores, cost."),
    "gallery": ("minoritybench.cli.gallery", "A page of samples: a row a prompt, a column a method."),
    "study": ("minoritybench.cli.study", "Ask people which of two methods' images they prefer, and count."),
    "analyze": ("minoritybench.cli.analyze", "Spectra behind the scores, errors of top-k scores and their bounds."),
    "verify": ("minoritybench.cli.verify", "Check a reference set against its images."),
    "doctor": ("minoritybench.cli.doctor", "What is installed, which weights are here, what each benchmark lacks."),
    "list": ("minoritybench.cli.listing", "List datasets, encoders, methods and the other registered names."),
}


class _LazyGroup(click.Group):
    """Knows its commands' names and help lines, and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[name][0]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in _COMMANDS and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, _COMMANDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(_COMMANDS)}"
            raise click.UsageError(f"unknown command {name!r}{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="minoritybench")
def cli() -> None:
    """Find, generate and measure the images that are rare in the real world.

    \b
    minoritybench rank-dataset digits        rank a real dataset, keep the rarest
    minoritybench evaluate --method jepa     sample with JEPA guidance and measure

    Exit codes: 0 done, 1 a check failed, 2 bad usage or input, 3 an optional package is missing, 4 data or weights are
    absent, 5 finished with failed items, 130 interrupted (the same command resumes).
    """


def main() -> None:
    """Entry point: run, and turn expected errors into one line and an exit code."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    logging.getLogger("minoritybench").setLevel(logging.INFO)  # other libraries' chatter is not ours to print
    try:
        code = cli.main(standalone_mode=False)
    except MinorityBenchError as error:
        _fail(str(error), error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted; what is done is kept and the same command resumes", 130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away; nothing left to say to it
        raise SystemExit(0) from None
    except OSError as error:  # no space, no permission: the user's to mend, and finished shards are kept
        _fail(f"{error.strerror or error}: {error.filename or 'no file named'}", 2)
    raise SystemExit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    click.echo(f"minoritybench: {message}", err=True)
    raise SystemExit(code)
