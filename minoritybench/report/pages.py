"""Jinja2 set up once: autoescape on, undefined names are errors, templates from this package, one content policy."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from minoritybench.errors import BadInputError

_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5}(?:v\d+)?)")


def prose(text: str) -> Markup:
    """Plain text as HTML, with `names` in backticks as code and arXiv numbers as links."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return _linked(text)
    spans = [f"<code>{escape(part)}</code>" if place % 2 else _linked(part) for place, part in enumerate(parts)]
    return Markup("".join(spans))


def _linked(text: str) -> Markup:
    return Markup(_ARXIV.sub(r'<a href="https://arxiv.org/abs/\1" rel="noreferrer">\g<0></a>', str(escape(text))))


_ENVIRONMENT = Environment(
    loader=PackageLoader("minoritybench.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters["prose"] = prose
_POLICY = "content-security-policy-of-this-page"


def generator_of(command: str) -> str:
    """What the pages of a command say they were made by, in their meta element `generator`."""
    return f"minoritybench {command}"


def refuse_other_file(out: Path, command: str) -> None:
    """A file that is there may be replaced only if it is such a page; anything else exits 2."""
    marker = f'name="generator" content="{generator_of(command)}"'
    if out.is_dir() or (out.is_file() and marker not in out.read_text("utf-8", errors="replace")[:2000]):
        raise BadInputError(f"--out {out} is there and is no page of `minoritybench {command}`; choose another name")


def render(template: str, command: str, **context: Any) -> str:
    """A page of this package filled in, as made by a command.

    Its content policy lets nothing load from anywhere, pictures in the page itself excepted, and lets only the style
    and script run that the template holds, by digest: text that got in as an element would do nothing. The templates
    mark theirs with `own`, which no text can know before the page is filled in and which is taken away again.
    """
    own = Markup(f" data-own-{secrets.token_hex(16)}")
    made_by = generator_of(command)
    page = _ENVIRONMENT.get_template(template).render(generator=made_by, policy=_POLICY, own=own, **context)
    return page.replace(_POLICY, _policy(page, own), 1).replace(own, "")


def _policy(page: str, own: str) -> str:
    rules = ["default-src 'none'", "img-src data:"]
    for element in ("style", "script"):
        bodies = re.findall(f"<{element}{own}>(.*?)</{element}>", page, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in bodies]
        rules += [f"{element}-src " + " ".join(f"'sha256-{digest}'" for digest in digests)] if digests else []
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])
