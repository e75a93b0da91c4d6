"""JEPA world priors: one interface, one loader an id."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

from minoritybench.encoders.base import Encoder, encoder_facts
from minoritybench.errors import BadInputError
from minoritybench.registry import is_user_file, resolve, user_code

__all__ = ["DTYPES", "Encoder", "load_encoder"]

DTYPES = ("float32", "float64", "bfloat16")


def load_encoder(
    name: str,
    *,
    weights: Literal["random"] | str | Path | None = None,
    input_size: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> Encoder:
    """An encoder by registered id or `path/to/file.py:factory`.

    `weights`: None for the id's own, `"random"` for a seeded random network, or a file. A user's factory is called
    with those of `weights`, `input_size`, `device`, `dtype` that were given and returns an object with `prepare` and
    `__call__` (see `minoritybench.encoders.base.Encoder`). Errors: unknown id or unfit file exit 2, absent file exit 4.
    """
    import torch

    if dtype not in DTYPES:
        raise BadInputError(f"dtype {dtype!r} is not one of: {', '.join(DTYPES)}")
    factory = cast(Callable[..., Encoder], resolve("encoders", name))
    if is_user_file(name):
        given: dict[str, Any] = {"weights": weights, "input_size": input_size}
        chosen = {key: value for key, value in given.items() if value is not None}
        if device != "cpu":
            chosen["device"] = device
        if dtype != "float32":
            chosen["dtype"] = getattr(torch, dtype)
        with user_code(name):
            encoder = factory(**chosen)
        return _checked(encoder, name)
    fixed = getattr(factory, "input_size", None)
    if input_size is not None and fixed is not None and input_size != fixed:
        raise BadInputError(f"{name} takes {fixed} px inputs only, not input_size={input_size}")
    source = Path(weights) if weights not in (None, "random") else weights
    sized = {} if input_size is None or fixed is not None else {"input_size": input_size}
    return _checked(factory(name, weights=source, device=device, dtype=getattr(torch, dtype), **sized), name)


def _checked(encoder: Any, name: str) -> Encoder:
    if not (callable(encoder) and callable(getattr(encoder, "prepare", None))):
        raise BadInputError(
            f"encoder {name!r}: the factory returned {type(encoder).__name__}, which lacks prepare(images) or __call__"
        )
    encoder_facts(encoder, name)  # an attribute of a wrong type is found here, not half-way through the work
    return cast(Encoder, encoder)
