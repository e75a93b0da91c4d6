"""Shared: digits as tensors, one torch thread, leaderboards to spoil."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from forged_records import ask_for_few, git, saved
from torch import Tensor

import minoritybench
from minoritybench import leaderboards
from minoritybench.embedded.data import load_split
from minoritybench.encoders import vision


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Features of earlier runs, and weights that may lie on this machine, are no part of a test."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("MINORITYBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def digits() -> Tensor:
    """The 1,500 training digits, float32 (N, 3, 8, 8) in [0, 1]."""
    images = torch.from_numpy(load_split("train").images).float() / 255
    return images.unsqueeze(1).repeat(1, 3, 1, 1)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that claims a clean commit, for a benchmark that asks for few samples."""
    out = tmp_path_factory.mktemp("small") / "run"
    record = minoritybench.evaluate("adm", n=12, out=out)
    clean = record.minoritybench.model_copy(update={"commit": "0" * 40, "dirty": False})
    saved(record.model_copy(update={"minoritybench": clean}), out / "record.json")
    return out


@pytest.fixture(scope="session")
def built(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A leaderboards folder with one filed record and its boards built, beside a README with markers."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "README.md").write_text("# Title\n\n<!-- board:digits -->\n<!-- /board:digits -->\nend\n")
    with pytest.MonkeyPatch.context() as monkeypatch:
        ask_for_few(monkeypatch)
        leaderboards.add(small / "record.json", folder / "leaderboards" / "results")
        leaderboards.write_boards(folder / "leaderboards" / "results", folder / "leaderboards")
    return folder


@pytest.fixture
def boards(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `built` to spoil."""
    ask_for_few(monkeypatch)
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    return tmp_path / "leaderboards"


@pytest.fixture
def checkout(boards: Path) -> Path:
    """The boards in a git repository of their own, filed on main, on a branch that has a commit more."""
    root = boards.parent
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "filed")
    git(root, "switch", "-q", "-c", "branch")
    git(root, "commit", "-q", "--allow-empty", "-m", "more")
    return boards


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """DINOv2 and I-JEPA of width 64 and depth 3."""
    size = vision.VitSize(64, 3, 4)
    monkeypatch.setattr(vision, "DINOV2_SIZES", {"vits14": size, "vitg14": dataclasses.replace(size, swiglu=True)})
    monkeypatch.setattr(vision, "IJEPA_VITH14", size)
