"""Folders as people really have them: links, loops, pipes, names that are not text."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

import minoritybench
from minoritybench.data.folder import FolderSource
from minoritybench.data.source import ImageDecodeError, SourceSpec
from minoritybench.errors import BadInputError


def png(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return path


def opened(folder: Path) -> FolderSource:
    return FolderSource(SourceSpec("folder", str(folder)))


def test_change_behind_a_link_changes_the_fingerprint(tmp_path: Path) -> None:
    target = png(tmp_path / "elsewhere" / "real.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").symlink_to(target)
    before = opened(tmp_path / "in").fingerprint()
    assert opened(tmp_path / "in").fingerprint() == before
    target.write_bytes(target.read_bytes() + b"more")
    assert opened(tmp_path / "in").fingerprint() != before


def test_linked_class_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    png(tmp_path / "elsewhere" / "one.png")
    folder = tmp_path / "in"
    png(folder / "dog" / "two.png")
    (folder / "cat").symlink_to(tmp_path / "elsewhere")
    (folder / "cat2").symlink_to(tmp_path / "elsewhere")
    (folder / "dog" / "up").symlink_to(folder)
    (folder / "dog" / "self").symlink_to("self")
    assert list(opened(folder).ids) == ["cat/one.png", "dog/two.png"]  # cat2 is cat, read already


def test_names_that_are_no_regular_files_fail_alone(tmp_path: Path) -> None:
    png(tmp_path / "a.png")
    png(tmp_path / "folder.png" / "inside.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "broken.png").symlink_to(tmp_path / "gone")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))
        source = opened(tmp_path)
        assert list(source.ids) == [
            "a.png", "broken.png", "folder.png/inside.png", "pipe.png", "socket.png", "zero.png",
        ]  # fmt: skip
        for name, reason in [
            ("broken.png", "No such file"),
            ("pipe.png", "not a regular file"),
            ("socket.png", "cannot be read"),
            ("zero.png", "not a regular file"),
        ]:
            with pytest.raises(ImageDecodeError, match=reason):
                source.load(source.ids.index(name))
        assert source.load(0).pixels.shape == (8, 8, 3)
        assert len(source.fingerprint()) == 64


def test_names_that_are_not_utf8_end_as_failures_with_ids_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    png(folder / "a.png")
    real = (folder / "a.png").read_bytes()
    for name in (b"caf\xe9.png", b"caf\\xe9.png", b"\xff/x.png"):
        path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(real)
    assert list(opened(folder).ids) == ["\\xff/x.png", "a.png", "caf\\xe9.png", "caf\\xe9.png~"]
    outcome = minoritybench.rank_dataset(str(folder), out=tmp_path / "out", keep="1")
    assert {failure["id"] for failure in outcome.failures} == {"\\xff/x.png", "caf\\xe9.png~"}
    assert "not UTF-8" in outcome.failures[0]["error"]
    assert set(pd.read_parquet(tmp_path / "out" / "scores.parquet")["id"]) == {"a.png", "caf\\xe9.png"}
    assert "caf\\xe9.png~" in (tmp_path / "out" / "failures.csv").read_text("utf-8")


def test_folder_whose_own_path_is_not_utf8_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    with pytest.raises(BadInputError, match="not UTF-8"):
        SourceSpec("folder", str(folder))


def test_folders_that_link_to_one_another_are_read_once(tmp_path: Path) -> None:
    folders = [tmp_path / f"f{number}" for number in range(9)]
    for folder in folders:
        folder.mkdir()
        Image.new("RGB", (2, 2)).save(folder / "a.png")
    for folder in folders:
        for other in folders:
            (folder / f"to-{other.name}").symlink_to(other)
    assert list(FolderSource(SourceSpec("folder", str(tmp_path))).ids) == [f"f{number}/a.png" for number in range(9)]
