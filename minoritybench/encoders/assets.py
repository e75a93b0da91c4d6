"""Where an encoder's weights are looked for, and what is said when they are not there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minoritybench.assets import cache_folder
from minoritybench.errors import BadInputError, MissingAssetError
from minoritybench.store import sha256_file


@dataclass(frozen=True)
class WeightFile:
    """A published weight file: `repo` on the Hugging Face hub, `file` in it, its `size` and, where known, `sha256`."""

    repo: str
    file: str
    size: str
    sha256: str | None = None


def place_of(encoder: str, weights: WeightFile) -> Path:
    """Where a file fetched by hand belongs."""
    return cache_folder() / "encoders" / encoder.replace(":", "-").replace("/", "-") / weights.file


def locate(encoder: str, weights: WeightFile) -> Path:
    """The weight file in our cache folder or in the hub's; exit 4 with one line of instructions where it is in
    neither. Nothing is downloaded."""
    own = place_of(encoder, weights)
    path = own if own.is_file() else _in_hub_cache(weights)
    if path is None:
        raise MissingAssetError(
            f"{encoder}: weights {weights.file} ({weights.size}) are not here; fetch them with "
            f"`hf download {weights.repo} {weights.file}`, or put the file at {own};"
            " a command that has --weights also takes it by name"
        )
    if weights.sha256 is not None and sha256_file(path) != weights.sha256:
        raise BadInputError(f"{encoder}: {path} is not the published file (its sha256 differs); fetch it again")
    return path


def given(encoder: str, path: Path, weights: WeightFile | None) -> Path:
    """A file that the user named."""
    if not path.is_file():
        wanted = "" if weights is None else f"; {encoder} takes {weights.file} of {weights.repo} ({weights.size})"
        raise MissingAssetError(f"--weights {path}: no such file{wanted}")
    return path


def _in_hub_cache(weights: WeightFile) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(weights.repo, weights.file)
    return Path(found) if isinstance(found, str) else None
