"""Datasets brought to a generator's shape, their classes, and the embedded patches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minoritybench.data.source import LoadedImage, SourceSpec, open_source
from minoritybench.embedded.data import load_split
from minoritybench.engine.stage import run_stage
from minoritybench.errors import BadInputError, MissingAssetError
from minoritybench.prepare.images import FACTS, ImagesPlan, ImageStore, class_labels, image_shard, open_store
from minoritybench.prepare.images import to_state_pixels as shaped
from minoritybench.prepare.inputs import other_spec
from minoritybench.store import Receipts


def stored(spec: SourceSpec, out: Path, shape: tuple[int, ...]) -> ImageStore:
    plan = ImagesPlan(str(out), "token", "pixels", spec, shape)
    shards = -(-len(open_source(spec).ids) // 1024)
    return open_store(plan, run_stage(image_shard, plan, shards, Receipts(out, "pixels", "token", FACTS), label=""))


def test_digits_come_back_exactly_and_with_their_labels(tmp_path: Path) -> None:
    store = stored(SourceSpec("digits"), tmp_path, (1, 8, 8))
    split = load_split("train")
    assert len(store) == 1500
    assert len(store.files) == 2
    assert store.labels is not None
    assert store.labels.tolist() == split.labels.tolist()
    some = [1499, 0, 1023, 1024]
    expected = torch.from_numpy(split.images[some]).float()[:, None] / 127.5 - 1
    assert torch.equal(store.take(some), expected)


def test_joined_stores_keep_order_and_lose_labels(tmp_path: Path) -> None:
    store = stored(SourceSpec("digits", None, None, 20), tmp_path, (1, 8, 8))
    both = store.joined(store)
    assert len(both) == 40
    assert both.labels is None
    assert torch.equal(both.take([5, 25]), store.take([5, 5]))
    assert both.token != store.token


def test_photographs_are_cut_square_resized_and_kept_in_colour_or_made_grey() -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = (200, 100, 0)  # the centre square
    image = LoadedImage(pixels, "", 0)
    colour = shaped(image, (3, 16, 16))
    assert colour.shape == (3, 16, 16)
    assert (colour == np.array([200, 100, 0], np.uint8)[:, None, None]).all()
    assert (shaped(image, (1, 8, 8)) == 100).all()


def test_broken_images_are_left_out_with_their_labels(tmp_path: Path) -> None:
    for name, level in (("a/1.png", 10), ("a/2.png", 20), ("b/1.png", 30)):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "a" / "1b.png").write_text("no image")
    store = stored(SourceSpec("folder", str(tmp_path / "in")), tmp_path / "out", (3, 8, 8))
    assert len(store) == 3
    assert store.labels is not None
    assert store.labels.tolist() == [0, 0, 1]
    assert ((store.take([0, 1, 2])[:, 0, 0, 0] + 1) * 127.5).round().tolist() == [10, 20, 30]


def test_no_folders_no_classes(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "x.png")
    assert class_labels(open_source(SourceSpec("folder", str(tmp_path)))) is None


def test_patches_are_real_grey_8x8_and_follow_the_photograph() -> None:
    source = open_source(SourceSpec("natural-patches"))
    assert len(source.ids) == 2600
    assert list(source.ids) == sorted(source.ids)
    image = source.load(list(source.ids).index("china-2-00-00"))
    from sklearn.datasets import load_sample_image

    luma = load_sample_image("china.jpg")[:16, :16] @ np.array([0.299, 0.587, 0.114])
    assert image.pixels.shape == (8, 8, 3)
    assert abs(float(image.pixels[0, 0, 0]) - luma[:2, :2].mean()) <= 0.5
    assert abs(float(image.pixels[7, 3, 1]) - luma[14:, 6:8].mean()) <= 0.5
    with pytest.raises(BadInputError, match="natural-patches"):
        open_source(SourceSpec("natural-patches", "/somewhere"))


def test_absent_negatives_exit_four_and_roots_reach_only_datasets_that_have_one(tmp_path: Path) -> None:
    assert other_spec("natural-patches", str(tmp_path)).root is None
    with pytest.raises(MissingAssetError, match="image-net"):
        open_source(other_spec("imagenet", str(tmp_path)))
    with pytest.raises(BadInputError, match="did you mean 'imagenet'"):
        other_spec("imagenet1", None)


def test_numbered_folders_are_classes_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("0", "2", "10"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name / "x.png")
    source = open_source(SourceSpec("folder", str(tmp_path)))
    labels = class_labels(source)
    assert labels is not None
    assert dict(zip(source.ids, labels.tolist(), strict=True)) == {"0/x.png": 0, "2/x.png": 1, "10/x.png": 2}


def test_a_draw_of_the_images_keeps_their_labels_and_is_the_same_again(tmp_path: Path) -> None:
    whole = stored(SourceSpec("digits"), tmp_path / "whole", (1, 8, 8))
    plan = ImagesPlan(str(tmp_path / "some"), "token", "pixels", SourceSpec("digits"), (1, 8, 8), 1100)
    receipts = Receipts(tmp_path / "some", "pixels", "token", FACTS)
    store = open_store(plan, run_stage(image_shard, plan, 2, receipts, label=""))
    chosen = plan.chosen(1500)
    assert len(store) == len(set(chosen.tolist())) == 1100
    assert store.labels is not None
    assert whole.labels is not None
    assert store.labels.tolist() == whole.labels[chosen].tolist()
    assert torch.equal(store.take(range(1100)), whole.take(chosen))
    assert plan.chosen(1100).tolist() == list(range(1100))
