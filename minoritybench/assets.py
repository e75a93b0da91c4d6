"""Weight files: the cache folder they lie in, reading them safely, and saying where one does not fit its network."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from minoritybench.errors import BadInputError

CACHE_VARIABLE = "MINORITYBENCH_CACHE"
_SHOWN = 3


def cache_folder() -> Path:
    """`$MINORITYBENCH_CACHE`, else `~/.cache/minoritybench`."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "minoritybench")


def read_tensors(path: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a plain `weights_only` state dict; no other code is unpickled.

    Errors: unreadable files, optimiser states and dicts that wrap the weights are one line (exit 2).
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInputError(f"{path} cannot be read as weights of {name}: {reason}") from error
    if isinstance(loaded, dict) and {"state", "param_groups"} <= loaded.keys():
        raise BadInputError(
            f"{path} is the state of an optimiser (opt*.pt), not the weights of {name}: take the ema_*.pt or model*.pt"
            " saved beside it"
        )
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise BadInputError(f"{path} is not a plain state dict; {name} needs one tensor a key")
    return loaded


def misfit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """How tensors differ from those a network expects: keys it lacks, unknown keys, other shapes, the first of each and
    how many more; None where they fit."""
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    shapes = [
        f"{key} {tuple(found[key].shape)} for {tuple(expected[key].shape)}"
        for key in expected
        if key in found and expected[key].shape != found[key].shape
    ]
    parts = [("lacks", missing), ("has unknown", extra), ("has other shapes at", shapes)]
    return "; ".join(f"{what} {_first(keys)}" for what, keys in parts if keys) or None


def _first(keys: list[str]) -> str:
    rest = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
