"""The command line within this process, where a test may have changed what it runs on."""

from __future__ import annotations

import importlib
import io
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from click.testing import CliRunner

from minoritybench.cli import cli, main
from minoritybench.errors import MinorityBenchError


def run(*words: str) -> tuple[int, str]:
    """Exit code and output of a command, the line of an expected error included; any other exception is raised."""
    result = CliRunner().invoke(cli, words)
    if isinstance(result.exception, MinorityBenchError):
        return result.exception.exit_code, f"{result.output}{result.exception}\n"
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def forked(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own, without importing torch anew: a fork of this one with its own streams, its
    own working folder and no log handlers. For commands that end before they compute."""
    importlib.import_module("minoritybench.evaluation")  # once, here, and not in every child
    importlib.import_module("minoritybench.rank")
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            _run_forked([str(word) for word in words], cwd, out.fileno(), err.fileno())
        _, status = os.waitpid(child, 0)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode())
    return subprocess.CompletedProcess(["minoritybench", *words], os.waitstatus_to_exitcode(status), *texts)


def _run_forked(words: list[str], cwd: Path, out: int, err: int) -> NoReturn:
    """Become the command; whatever happens, nothing of the test that asked for it runs twice."""
    code = 1
    try:
        os.chdir(cwd)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(number, "w", closefd=False)) for number in (1, 2))
        logging.getLogger().handlers.clear()
        sys.argv = ["minoritybench", *words]
        main()
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 1
    except Exception:
        logging.exception("the command failed")  # to stderr, as Python shows it, and no handler of the test's
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
