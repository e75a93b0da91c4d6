"""Jinja2 set up once: autoescape on, undefined names are errors, templates from this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from minoritybench.errors import BadInputError

_ENVIRONMENT = Environment(
    loader=PackageLoader("minoritybench.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def generator_of(command: str) -> str:
    """What the pages of a command say they were made by, in their meta element `generator`."""
    return f"minoritybench {command}"


def refuse_other_file(out: Path, command: str) -> None:
    """A file that is there may be replaced only if it is such a page; anything else exits 2."""
    marker = f'name="generator" content="{generator_of(command)}"'
    if out.is_dir() or (out.is_file() and marker not in out.read_text("utf-8", errors="replace")[:2000]):
        raise BadInputError(f"--out {out} is there and is no page of `minoritybench {command}`; choose another name")


def render(template: str, **context: Any) -> str:
    """A template of this package filled in."""
    return _ENVIRONMENT.get_template(template).render(**context)
