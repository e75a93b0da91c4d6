"""Options of the Python functions, checked against the request dataclass they become."""

from __future__ import annotations

import dataclasses
import difflib
import numbers
import reprlib
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from minoritybench.errors import BadInputError

Request = TypeVar("Request")


def field_names(kind: type) -> list[str]:
    """Names of a request's fields."""
    return [field.name for field in dataclasses.fields(kind)]


def build_request(
    kind: type[Request], given: Mapping[str, Any], options: Mapping[str, Any], also: Iterable[str] = ()
) -> Request:
    """The request of what a function knows itself (`given`) and of the `options` it was called with.

    Errors: an option that is no field of the request, with the nearest name among those that are and `also`, and a
    value that does not fit its field, where a text never passes for a number. What the request itself accepts beside
    its types, paths as text or a single seed, stays accepted.
    """
    known = [name for name in field_names(kind) if name not in given]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *also], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join([*known, *also])}"
            raise BadInputError(f"no such option {name!r}; {hint}")
    values = {name: _plain(value) for name, value in {**given, **options}.items()}
    types = typing.get_type_hints(kind)
    try:
        request = kind(**values)
    except (TypeError, ValueError) as error:
        culprit = _culprit(kind, values)
        if culprit is None:
            raise
        raise _unfit(culprit, values[culprit], types[culprit]) from error
    for name, value in values.items():
        if _complaint(getattr(request, name), types[name]) is not None:
            raise _unfit(name, value, types[name])
    return request


def _plain(value: Any) -> Any:
    """An integer of another library as one of Python's, for plans are JSON."""
    foreign = isinstance(value, numbers.Integral) and not isinstance(value, int)
    return int(value) if foreign else value


def _complaint(value: Any, kind: Any) -> str | None:
    """Why a value is none of a type, in pydantic's words; None if it is one."""
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        return error.errors()[0]["msg"]
    return None


def _unfit(name: str, value: Any, kind: Any) -> BadInputError:
    shown = " ".join(reprlib.repr(value).split())
    return BadInputError(f"option {name}={shown}: {_complaint(value, kind) or 'it has another type'}")


def _culprit(kind: type, values: Mapping[str, Any]) -> str | None:
    """The value that no request can be made of, even with defaults for all others."""
    fields = dataclasses.fields(kind)
    needed = {field.name: values[field.name] for field in fields if field.default is dataclasses.MISSING}
    for name, value in values.items():
        try:
            kind(**{**needed, name: value})
        except BadInputError:
            continue  # of its type, but at odds with a default
        except (TypeError, ValueError):
            return name
    return None
