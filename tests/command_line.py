"""The command line within this process, where a test may have changed what it runs on."""

from __future__ import annotations

from click.testing import CliRunner

from minoritybench.cli import cli
from minoritybench.errors import MinorityBenchError


def run(*words: str) -> tuple[int, str]:
    """Exit code and output of a command, the line of an expected error included; any other exception is raised."""
    result = CliRunner().invoke(cli, words)
    if isinstance(result.exception, MinorityBenchError):
        return result.exception.exit_code, f"{result.output}{result.exception}\n"
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output
