"""The feature cache: used when it fits, and never when it does not; what was planted in it is neither run nor lost."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from minoritybench.features import Space, cache, load_extractor
from minoritybench.features.cache import Crew, RealSide, real_sides, reference_images, training_images
from minoritybench.measure_shard import Selection
from minoritybench.metrics import FeatureMoments
from minoritybench.references import load_reference_set
from minoritybench.store import read_json

NAME = "digits-classifier"
SPACE = Space(NAME)
RUNS: list[int] = []


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; `RUNS` collects the shards that are computed rather than read."""
    monkeypatch.setenv("MINORITYBENCH_CACHE", str(tmp_path / "cache"))
    RUNS.clear()
    worker = cache.measure_shard

    def counted(plan: object, shard: int) -> None:
        RUNS.append(shard)
        worker(plan, shard)  # type: ignore[arg-type]

    monkeypatch.setattr(cache, "measure_shard", counted)
    return tmp_path / "cache" / "features"


def members(count: int | None = None) -> Selection:
    chosen = reference_images(load_reference_set("digits"))
    return Selection(source=chosen.source, positions=chosen.positions[:count], digests=chosen.digests[:count])


def side(images: Selection | None = None) -> RealSide:
    return real_sides(images or members(), [SPACE], load_extractor(NAME), None, Crew())[SPACE]


def one(folder: Path, pattern: str) -> Path:
    (found,) = sorted(folder.glob(f"*/{pattern}"))
    return found


def test_features_are_the_extractors_of_the_members_in_order_and_moments_theirs(digits: Tensor) -> None:
    reference = load_reference_set("digits")
    order = reference.positions(reference.source())
    expected = load_extractor(NAME)(digits[order])
    found = side()
    assert (found.features == expected).all()  # bitwise: shards and batches group the same rows
    moments = FeatureMoments.of(expected)
    assert found.moments.n == 375
    assert (found.moments.mean == moments.mean).all()
    assert (found.moments.covariance == moments.covariance).all()
    assert found.grey.all()


def test_a_second_call_reads_what_the_first_computed() -> None:
    first = side()
    assert RUNS == [0, 1]
    again = side()
    assert RUNS == [0, 1]
    assert (again.features == first.features).all()


def test_other_images_weights_preprocessing_or_threads_are_another_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = load_extractor(NAME)
    plans = [cache.feature_plan(members(20), [SPACE], extractor, None, "cpu")]
    plans.append(cache.feature_plan(members(21), [SPACE], extractor, None, "cpu"))
    for attribute, value in (("weights_sha256", "0"), ("preprocess", "x"), ("micro_batch", 3), ("threads", None)):
        other = load_extractor(NAME)
        monkeypatch.setattr(other, attribute, value, raising=False)
        plans.append(cache.feature_plan(members(20), [SPACE], other, 2, "cpu"))
    plans.append(cache.feature_plan(members(20), [SPACE], extractor, None, "cuda"))
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    plans.append(cache.feature_plan(members(20), [SPACE], extractor, None, "cpu"))
    monkeypatch.setattr(cache, "_own_code", lambda: "edited")
    plans.append(cache.feature_plan(members(20), [SPACE], extractor, None, "cpu"))
    monkeypatch.setattr(torch, "__version__", "0")
    plans.append(cache.feature_plan(members(20), [SPACE], extractor, None, "cpu"))
    assert len({cache.digest_of(plan) for plan in plans}) == len(plans) == 10


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("damage", ["truncated", "foreign", "pickle"])
@pytest.mark.parametrize("what", ["measures/000001.safetensors", "measures/moments-*.safetensors"])
def test_a_damaged_part_is_computed_again(what: str, damage: str, folder: Path, tmp_path: Path) -> None:
    first = side()
    file = one(folder, what)
    trap = tmp_path / "sprung"
    data = file.read_bytes()
    file.write_bytes({"truncated": data[:-7], "foreign": b"0" * len(data), "pickle": pickle.dumps(_Trap(trap))}[damage])
    again = side()
    assert [0, 1, 1][: 3 if "moments" not in what else 2] == RUNS
    assert (again.features == first.features).all()
    assert (again.moments.covariance == first.moments.covariance).all()
    assert file.read_bytes() == data
    assert not trap.exists()


def test_a_shard_of_another_plan_is_not_taken(folder: Path) -> None:
    """A file and its receipt, copied whole from the entry of other images, name another plan."""
    first = side(members(10))
    one(folder, "plan.json").parent.rename(folder.parent / "aside")
    other = Selection(
        **{**vars(members(20)), "positions": members(20).positions[10:], "digests": members(20).digests[10:]}
    )
    side(other)
    (theirs,) = folder.iterdir()
    for sub in ("measures/000000.safetensors", "receipts/measure-000000.json"):
        (folder.parent / "aside" / sub).write_bytes((theirs / sub).read_bytes())
    (folder.parent / "aside").rename(folder / one(folder, "plan.json").parent.name.replace(theirs.name, "x"))
    (folder / "x").rename(folder / _entry(members(10)))
    RUNS.clear()
    assert (side(members(10)).features == first.features).all()
    assert RUNS == [0]


def _entry(images: Selection) -> str:
    plan = cache.feature_plan(images, [SPACE], load_extractor(NAME), None, "cpu")
    return f"{NAME}-{cache.digest_of(plan)[:16]}"


@pytest.mark.parametrize("planted", ["plan.json", "thesis.txt"])
def test_a_foreign_folder_in_the_cache_is_left_alone(
    planted: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = folder / _entry(members())
    place.mkdir(parents=True)
    (place / planted).write_text('{"kind": "other"}')
    with caplog.at_level(logging.WARNING):
        found = side()
    assert found.features.shape == (375, 64)
    assert [path.name for path in place.iterdir()] == [planted]
    (message,) = [record.getMessage() for record in caplog.records]
    assert "nothing is cached" in message
    assert len(message.splitlines()) == 1


def test_training_images_are_all_that_the_set_was_chosen_from(digits: Tensor) -> None:
    found = training_images(load_reference_set("digits"))
    assert found.positions == tuple(range(1500))
    known = load_reference_set("digits").members
    assert set(known["sha256"]) <= set(found.digests)


def test_plan_names_what_the_features_depend_on(folder: Path) -> None:
    side()
    plan = read_json(one(folder, "plan.json"))
    assert plan["images"]["n"] == 375
    assert plan["extractor"]["weights_sha256"] == load_extractor(NAME).weights_sha256
    assert np.dtype(plan["extractor"]["dtype"]) == np.float32
