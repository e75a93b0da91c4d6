"""`hf:` datasets: layouts, ids, row access, and what is said when files are absent or cut."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import minoritybench
from minoritybench.data.hub import HubSource, parse_hub_name
from minoritybench.data.source import ImageDecodeError, SourceSpec, open_source, spec_from_argument
from minoritybench.errors import BadInputError, MissingAssetError
from minoritybench.references import load_reference_set


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def cells(levels: list[int]) -> list[dict[str, object]]:
    return [{"bytes": png(level), "path": None} for level in levels]


def write(path: Path, levels: list[int], labels: list[int] | None = None, group: int = 3, **more: list[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns: dict[str, list[object]] = {"image": list(cells(levels)), **more}
    if labels is not None:
        columns["label"] = list(labels)
    pq.write_table(pa.table(columns), path, row_group_size=group)


def opened(
    root: Path, name: str = "hf:someone/things", split: str | None = None, limit: int | None = None
) -> HubSource:
    source = open_source(spec_from_argument(name, str(root), split, limit))
    assert isinstance(source, HubSource)
    return source


def levels_of(source: HubSource, order: list[int]) -> list[int]:
    return [int(source.load(index).pixels[0, 0, 0]) for index in order]


def test_rows_run_through_files_and_row_groups_in_order(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train-00000-of-00002.parquet", list(range(0, 8)))
    write(tmp_path / "data" / "train-00001-of-00002-0a1b2c.parquet", list(range(8, 13)))
    write(tmp_path / "data" / "test-00000-of-00001.parquet", [200])
    source = opened(tmp_path)
    assert list(source.ids) == [f"train/{row:08d}" for row in range(13)]
    jumps = [12, 0, 7, 8, 3, 12, 5]
    assert levels_of(source, jumps) == jumps
    assert list(opened(tmp_path, split="test").ids) == ["test/00000000"]
    assert list(opened(tmp_path, limit=2).ids) == ["train/00000000", "train/00000001"]
    assert source.load(4).file_bytes == len(png(4))
    assert source.load(4).sha256 == opened(tmp_path).load(4).sha256 != source.load(5).sha256


def test_only_a_few_row_groups_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "train.parquet", list(range(12)))
    read: list[int] = []
    whole = HubSource._read_group
    monkeypatch.setattr(HubSource, "_read_group", lambda self, group: read.append(group) or whole(self, group))
    source = opened(tmp_path)
    levels_of(source, list(range(12)))
    assert read == [0, 1, 2, 3]
    assert source._group.cache_info().currsize <= 2


def test_labels_become_class_folders(tmp_path: Path) -> None:
    write(tmp_path / "train-00000-of-00001.parquet", [10, 20, 30, 40, 50], labels=[1, 0, 1, 0, 2])
    source = opened(tmp_path)
    assert list(source.ids) == [
        "0/train-00000001", "0/train-00000003", "1/train-00000000", "1/train-00000002", "2/train-00000004",
    ]  # fmt: skip
    assert levels_of(source, [0, 1, 2, 3, 4]) == [20, 40, 10, 30, 50]
    outcome = minoritybench.rank_dataset(
        "hf:someone/things", root=str(tmp_path), encoder="digits-jepa", per_class=1, out=tmp_path.parent / "out"
    )
    assert outcome.reference_set.n == 3
    assert len(load_reference_set(tmp_path.parent / "out").images()) == 3


def test_configurations_are_folders(tmp_path: Path) -> None:
    write(tmp_path / "small" / "train-00000-of-00001.parquet", [1])
    assert len(opened(tmp_path).ids) == 1
    write(tmp_path / "large" / "train-00000-of-00001.parquet", [1, 2])
    with pytest.raises(BadInputError, match="several configurations, large, small"):
        opened(tmp_path)
    assert len(opened(tmp_path, "hf:someone/things:large").ids) == 2
    with pytest.raises(MissingAssetError, match="for medium"):
        opened(tmp_path, "hf:someone/things:medium")


def test_layout_of_converted_datasets(tmp_path: Path) -> None:
    write(tmp_path / "default" / "train" / "0000.parquet", [1, 2])
    write(tmp_path / "default" / "train" / "0001.parquet", [3])
    assert levels_of(opened(tmp_path), [0, 1, 2]) == [1, 2, 3]


def test_absent_dataset_names_command_and_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(MissingAssetError) as error:
        open_source(SourceSpec("hf:someone/things"))
    assert "hf download someone/things --repo-type dataset" in str(error.value)
    assert str(tmp_path / "cache" / "datasets--someone--things") in str(error.value)
    with pytest.raises(MissingAssetError, match=rf"--local-dir {tmp_path / 'here'}"):
        open_source(SourceSpec("hf:someone/things", str(tmp_path / "here")))


def test_snapshot_in_the_hubs_cache_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repo, commit = tmp_path / "datasets--someone--things", "0123456789" * 4
    write(repo / "snapshots" / commit / "data" / "train-00000-of-00001.parquet", [7])
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    source = open_source(SourceSpec("hf:someone/things"))
    assert source.spec.root is None
    assert source.load(0).pixels[0, 0, 0] == 7


def test_half_of_a_download_is_not_the_whole(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train-00000-of-00003.parquet", [1])
    write(tmp_path / "data" / "train-00002-of-00003.parquet", [1])
    with pytest.raises(MissingAssetError, match="2 of the 3 train files"):
        opened(tmp_path)


def test_broken_rows_fail_alone_and_broken_files_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    rows = [{"bytes": png(1), "path": None}, {"bytes": None, "path": "x.png"}, None, {"bytes": b"no", "path": None}]
    pq.write_table(pa.table({"img": rows, "other": [1, 2, 3, 4]}), path)
    source = opened(tmp_path)
    assert source.load(0).pixels.shape == (8, 8, 3)
    for index in (1, 2, 3):
        with pytest.raises(ImageDecodeError):
            source.load(index)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadInputError, match="cannot be read as parquet"):
        opened(tmp_path)


def test_changed_files_change_the_fingerprint(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [1])
    before = opened(tmp_path).fingerprint()
    assert opened(tmp_path).fingerprint() == before
    write(tmp_path / "train.parquet", [1, 2])
    assert opened(tmp_path).fingerprint() != before


def test_image_column_is_found_by_its_declared_feature(tmp_path: Path) -> None:
    features = {"sound": {"_type": "Audio"}, "photo": {"_type": "Image"}}
    table = pa.table({"sound": cells([1]), "photo": cells([9])})
    stated = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(stated, tmp_path / "train.parquet")
    assert levels_of(opened(tmp_path), [0]) == [9]
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(BadInputError, match=r"several image columns \(sound, photo\)"):
        opened(tmp_path)
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "train.parquet")
    with pytest.raises(BadInputError, match="no column of"):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["hf:", "hf:a/b/c", "hf:../x", "hf:a/b:", "hf:a/b:../c", "hf:a b", "hf:a/b--c"])
def test_malformed_names_are_refused(name: str) -> None:
    with pytest.raises(BadInputError, match="write hf:OWNER/NAME"):
        parse_hub_name(name)


def test_wrong_split_names_the_right_ones(tmp_path: Path) -> None:
    write(tmp_path / "data" / "a-00000-of-00001.parquet", [1])
    write(tmp_path / "data" / "b-00000-of-00001.parquet", [1])
    for split in (None, "c"):
        with pytest.raises(BadInputError, match="has the splits a, b"):
            opened(tmp_path, split=split)


def test_mirrors_stand_in_for_the_original_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (218, 178, 3), dtype=np.uint8)).save(buffer, "PNG")
    face = [{"bytes": buffer.getvalue(), "path": None}]
    folder = tmp_path / "celeba-hub" / "img_align+identity+attr"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"image": face}), folder / "valid-00000-of-00001.parquet")
    source = open_source(SourceSpec("celeba", str(tmp_path), "valid"))
    assert list(source.ids) == ["valid/00000000"]
    assert source.load(0).pixels.shape == (64, 64, 3)
    assert open_source(source.spec).ids == source.ids
    write(tmp_path / "imagenet-hub" / "data" / "train-00000-of-00001.parquet", [3, 4], labels=[1, 0])
    assert list(open_source(SourceSpec("imagenet", str(tmp_path))).ids) == ["0/train-00000001", "1/train-00000000"]
