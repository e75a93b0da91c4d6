"""Features of the reference side, computed once: a folder of shards for each extractor, image list and way of doing it.

The folder is `$MINORITYBENCH_CACHE/features/<extractor>-<key>`, the key a digest of everything the features depend on
(`feature_plan`), so that a stale one is simply another folder. Shards and moments are taken only with an unedited
receipt that lists their SHA-256 (`minoritybench.store.Receipts`); whatever else lies there is computed again. Values
are safetensors: nothing in the cache is ever unpickled.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from minoritybench.assets import cache_folder
from minoritybench.data import resize, source
from minoritybench.encoders import module, vision
from minoritybench.engine.stage import run_stage
from minoritybench.errors import BadInputError
from minoritybench.feature_metrics import REFERENCE
from minoritybench.features import Extractor, Space, extractor_facts
from minoritybench.measure_shard import (
    FACTS,
    GREY,
    STAGE,
    MeasurePlan,
    Selection,
    load_measurements,
    measure_shard,
)
from minoritybench.metrics import FeatureMoments
from minoritybench.references import LoadedReference
from minoritybench.registry import code_digests
from minoritybench.store import Receipts, digest_of, folder_lock, open_output, sha256_file

FORMAT = 2
"""Raised whenever the same plan would give other features."""
_MOMENTS = "moments"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RealSide:
    """The real images of a metric in one space: `features` float32 `(N, D)`, their `moments`, and which of the images
    are `grey`, bool `(N,)`."""

    features: NDArray[np.float32]
    moments: FeatureMoments
    grey: NDArray[np.bool_]


@dataclass(frozen=True)
class Crew:
    """Who computes what the cache lacks; none of it changes a value but `device`."""

    device: str = "cpu"
    workers: int = 1
    engine: str = "local"
    batch_size: int | None = None


def real_sides(
    images: Selection, spaces: Sequence[Space], extractor: Extractor, threads: int | None, crew: Crew
) -> dict[Space, RealSide]:
    """The spaces of one extractor for the images of a source, from the cache as far as it holds them.

    A cache folder that cannot be used (foreign, not writable) is left as it is, with a warning, and nothing is kept.
    """
    plan = feature_plan(images, spaces, extractor, threads, crew.device)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", extractor.name)[-60:]
    folder = cache_folder() / "features" / f"{name}-{digest_of(plan)[:16]}"
    with ExitStack() as held:
        try:
            held.enter_context(folder_lock(folder, wait=True))
            open_output(folder, plan, force=False)
        except BadInputError as error:
            reason = str(error).removeprefix("--out ").partition(";")[0]
            _log.warning("feature cache: %s; it is left alone, and nothing is cached", reason)
            folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        return _sides(folder, plan, images, spaces, threads, crew)


def all_real_sides(
    reference: LoadedReference,
    wanted: Mapping[str, Sequence[Space]],
    extractors: Mapping[str, Extractor],
    threads: int | None,
    crew: Crew,
) -> dict[tuple[str, Space], RealSide]:
    """The real images of every metric, by what they are (`reference set`, `training split`) and the space."""
    sides: dict[tuple[str, Space], RealSide] = {}
    for against, spaces in wanted.items():
        images = reference_images(reference) if against == REFERENCE else training_images(reference)
        for name, extractor in extractors.items():
            some = [space for space in spaces if space.extractor == name]
            found = real_sides(images, some, extractor, threads, crew) if some else {}
            sides |= {(against, space): side for space, side in found.items()}
    return sides


def reference_images(reference: LoadedReference) -> Selection:
    """The members of a reference set, lowest score first."""
    positions = reference.positions(reference.source())
    digests = tuple(str(digest) for digest in reference.members["sha256"])
    return Selection(source=reference.source_spec, positions=tuple(positions), digests=digests)


def training_images(reference: LoadedReference) -> Selection:
    """All images that a reference set was chosen from, less those that cannot be read; each is read for its digest."""
    images = reference.source()
    found: dict[int, str] = {}
    for position in range(len(images.ids)):
        try:
            found[position] = images.load(position).sha256
        except source.ImageDecodeError as error:
            _log.warning("%s is left out of the training images: %s", images.ids[position], error)
    return Selection(source=reference.source_spec, positions=tuple(found), digests=tuple(found.values()))


def feature_plan(
    images: Selection, spaces: Sequence[Space], extractor: Extractor, threads: int | None, device: str
) -> dict[str, Any]:
    """Everything that features depend on: content of the images, weights, preprocessing, precision, micro-batch,
    threads, device, library, and the code that describes."""
    facts = extractor_facts(extractor)
    own = facts["threads"]
    return {
        "kind": "features",
        "format": FORMAT,
        "images": {"n": len(images), "sha256": digest_of(list(images.digests))},
        "extractor": {"name": extractor.name, **facts, "threads": threads if own is None else own},
        "layers": sorted(str(space.layer) for space in spaces),
        "device": device,
        "torch": torch.__version__,
        "code": {**code_digests(extractor.name), "minoritybench": _own_code()},
    }


def _sides(
    folder: Path,
    facts: dict[str, Any],
    images: Selection,
    spaces: Sequence[Space],
    threads: int | None,
    crew: Crew,
) -> dict[Space, RealSide]:
    token = digest_of(facts)
    plan = MeasurePlan(str(folder), token, images, (), tuple(spaces), crew.device, threads, batch_size=crew.batch_size)
    receipts = Receipts(folder, STAGE, token, FACTS)
    run_stage(
        measure_shard,
        plan,
        plan.shards,
        receipts,
        label=f"reference features, {facts['extractor']['name']}",
        workers=crew.workers,
        engine=crew.engine,
        device=crew.device,
    )
    arrays = load_measurements(plan)
    grey = arrays[GREY].astype(bool)
    return {
        space: RealSide(arrays[space.key], _moments(folder, token, space, arrays[space.key], crew.device), grey)
        for space in spaces
    }


def _moments(folder: Path, token: str, space: Space, features: NDArray[Any], device: str) -> FeatureMoments:
    """The moments of one space, kept beside its shards."""
    number = int(digest_of(space.key)[:6], 16)
    file, receipts = folder / "measures" / f"{_MOMENTS}-{number}.safetensors", Receipts(folder, _MOMENTS, token)
    if receipts.read(number) is None:
        FeatureMoments.of(features, name="real", device=device).save(file)
        receipts.write(number, [file], {})
    return FeatureMoments.load(file)


@cache
def _own_code() -> str:
    """Digest of the files that turn images into features: an edit to any makes the cache miss."""
    here = sorted(Path(__file__).parent.glob("*.py"))
    others = [Path(str(part.__file__)) for part in (resize, source, module, vision)]
    return digest_of([sha256_file(path) for path in (*here, *others)])
