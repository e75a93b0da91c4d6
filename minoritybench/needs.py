"""What methods need beside the generator: opened and checked before the first step.

A need is named `encoder` (the guide), `distance:NAME` (how far two images are apart, see `minoritybench.perceptual`) or
`prepared:NAME` (what `minoritybench prepare METHOD` built, see `minoritybench.prepare`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from minoritybench.errors import BadInputError

ENCODER = "encoder"
DISTANCE = "distance"
PREPARED = "prepared"


@dataclass(frozen=True)
class Need:
    """Something a method asked for: the object it will find in `step.resources`, and the digest of its weights."""

    value: Any
    sha256: str | None


def check_needs(method: str, names: Iterable[str]) -> None:
    """Refuse needs of a kind that nothing can provide."""
    unknown = [name for name in sorted(names) if name != ENCODER and name.partition(":")[0] not in (DISTANCE, PREPARED)]
    if unknown:
        raise BadInputError(f"method {method!r} requires {', '.join(unknown)}, which this version cannot provide")


def distance_names(names: Iterable[str]) -> list[str]:
    """What the `distance:` needs among `names` are called."""
    return [name.partition(":")[2] for name in sorted(names) if name.startswith(f"{DISTANCE}:")]


def open_distances(names: Iterable[str], device: str) -> dict[str, Need]:
    """The `distance:` needs among `names`."""
    from minoritybench.perceptual import open_distance

    return {f"{DISTANCE}:{name}": open_distance(name, device) for name in distance_names(names)}
