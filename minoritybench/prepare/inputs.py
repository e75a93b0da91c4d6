"""What a part was made from beside its settings: content that its name says nothing of, held against what is there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from minoritybench.data.catalogue import known
from minoritybench.data.source import SourceSpec, open_source, spec_from_argument
from minoritybench.errors import BadInputError, MissingAssetError
from minoritybench.needs import DISTANCE
from minoritybench.perceptual import weights_digest
from minoritybench.records import BenchmarkSpec

DATASET = "dataset"
INPUTS = "inputs"
"""The entry of a part's facts that maps `dataset:NAME` and `distance:NAME` to digests; the benchmark's own dataset has
the entry `dataset`. What is part of the package, or of the file itself, is not listed."""
log = logging.getLogger(__name__)


def other_spec(dataset: str, root: str | None) -> SourceSpec:
    """The source of a dataset that a setting names: registered, with its files under `root`, or a folder."""
    return spec_from_argument(dataset, None if known(dataset) is None else root, None, None)


def check_data(path: Path, facts: Mapping[str, Any], benchmark: BenchmarkSpec, root: str | None) -> None:
    """Refuse a part that was prepared from other content than what lies there now: `facts` are its own. What is not
    here cannot be checked."""
    own = SourceSpec(benchmark.dataset, root, benchmark.split)
    told: dict[str, tuple[str, Callable[[], str]]] = {}
    if DATASET in facts:
        told[benchmark.dataset] = (facts[DATASET]["sha256"], lambda: open_source(own).fingerprint())
    for name, sha256 in facts.get(INPUTS, {}).items():
        kind, _, rest = name.partition(":")
        if kind == DATASET:
            told[rest] = (sha256, partial(_fingerprint, rest, root))
    _refuse_changed(path, {name: (then, _found(now)) for name, (then, now) in told.items()})
    check_weights(path, facts)


def check_weights(path: Path, facts: Mapping[str, Any]) -> None:
    """Refuse a part whose images were scored with other LPIPS weights than those that lie there now."""
    told = {}
    for name, sha256 in facts.get(INPUTS, {}).items():
        kind, _, rest = name.partition(":")
        if kind == DISTANCE:
            told[rest] = (sha256, _found(partial(weights_digest, rest)))
    _refuse_changed(path, told)


def _fingerprint(dataset: str, root: str | None) -> str:
    return open_source(other_spec(dataset, root)).fingerprint()


def _found(digest: Callable[[], str | None]) -> str | None:
    try:
        return digest()
    except MissingAssetError as error:
        log.debug("not checked: %s", error)
        return None


def _refuse_changed(path: Path, told: Mapping[str, tuple[str, str | None]]) -> None:
    changed = [name for name, (then, now) in told.items() if now is not None and now != then]
    if changed:
        raise BadInputError(
            f"{path} was prepared from other files of {' and '.join(changed)} than those that are here now; build it"
            " anew: minoritybench prepare ... --force"
        )
