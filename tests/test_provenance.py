"""Which commit a result is of, and whether the code was that commit."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import minoritybench
from minoritybench.provenance import tool_record


def git(root: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed tree with the project's layout, from which the package claims to be imported."""
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE", "GIT_PREFIX"):  # set while a commit hook runs the tests
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "project"
    for name in (
        "minoritybench/__init__.py",
        "baselines/adm.py",
        "reference_sets/set.csv",
        "pyproject.toml",
        "README.md",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("first\n")
    git(tmp_path, "init", "-q", str(root))
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "first")
    monkeypatch.setattr(minoritybench, "__file__", str(root / "minoritybench" / "__init__.py"))
    return root


def test_committed_tree_is_clean(checkout: Path) -> None:
    record = tool_record()
    assert record.commit == git(checkout, "rev-parse", "HEAD")
    assert record.dirty is False
    assert record.version == minoritybench.__version__


def staged(root: Path) -> None:
    (root / "baselines" / "adm.py").write_text("other\n")
    git(root, "add", "-A")


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "minoritybench" / "__init__.py").write_text("other\n"),
        lambda root: (root / "minoritybench" / "new.py").write_text("new\n"),
        lambda root: (root / "baselines" / "adm.py").unlink(),
        lambda root: (root / "reference_sets" / "set.csv").write_text("other\n"),
        lambda root: (root / "pyproject.toml").write_text("other\n"),
        staged,
    ],
)
def test_changed_code_is_dirty(checkout: Path, change: Callable[[Path], object]) -> None:
    change(checkout)
    record = tool_record()
    assert record.commit == git(checkout, "rev-parse", "HEAD")
    assert record.dirty is True


def test_changes_beside_the_code_are_not_dirty(checkout: Path) -> None:
    (checkout / "README.md").write_text("other\n")
    (checkout / "runs").mkdir()
    (checkout / "runs" / "record.json").write_text("{}\n")
    assert tool_record().dirty is False


def test_copy_inside_a_foreign_repository_has_no_commit(checkout: Path) -> None:
    git(checkout, "rm", "-q", "--cached", "pyproject.toml")
    git(checkout, "commit", "-q", "-m", "not ours")
    assert (tool_record().commit, tool_record().dirty) == (None, None)
