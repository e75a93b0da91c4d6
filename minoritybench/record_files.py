"""The files of filed records: how large they may be, what may lie beside them, and that none changes once filed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from minoritybench.errors import BadInputError
from minoritybench.provenance import git
from minoritybench.sidecars import PER_IMAGE_FILE, SHEET_FILE

RECORD_NAME = "record.json"
MEBIBYTE = 2**20
LARGEST = {RECORD_NAME: MEBIBYTE, PER_IMAGE_FILE: 32 * MEBIBYTE, SHEET_FILE: 4 * MEBIBYTE}
"""Bytes. Twice what 30,000 images for each of three seeds take with four judges; a sheet has 64 tiles of at most 128
px."""


def record_file(run: Path) -> Path:
    """The record of a run folder or of a filed record's; a record file is itself one."""
    return run / RECORD_NAME if run.is_dir() else run


def size_faults(record: Path) -> Iterator[str]:
    """Files of a record that are too large, told before anything reads them."""
    for name, limit in LARGEST.items():
        path = record.parent / name if name != RECORD_NAME else record
        if path.is_file() and (size := path.stat().st_size) > limit:
            yield f"{name} has {size:,} bytes, more than the {limit // MEBIBYTE} MiB allowed"


def stray_faults(results: Path, records: Iterable[Path]) -> Iterator[str]:
    """What lies in the results folder and belongs to no record; a link could lead anywhere and belongs to none."""
    known = {record.parent / name for record in records for name in LARGEST}
    for path in sorted(results.rglob("*")):
        if path.is_symlink():
            yield f"{path}: a link; records are files"
        elif path.is_file() and path not in known:
            yield f"{path}: belongs to no record"


def history_faults(results: Path, against: str) -> Iterator[str]:
    """Files of `results` that `against` (a branch or commit) had where this work began and that were deleted or edited
    since, committed or not. Errors: no such commit, or no common history (exit 2)."""
    folder, below, base = _beginning(results, against)
    told = git(folder, "diff", "--name-status", "-z", "--no-renames", "--relative", base, "--", str(below))
    if told is None:
        raise BadInputError(f"--against {against}: git cannot compare {results} with {base[:12]}")
    fields = told.split("\0")
    for status, name in zip(fields[::2], fields[1::2], strict=False):
        if status == "A":
            continue
        what = "was deleted" if status == "D" else "was edited"
        path = results / Path(name).relative_to(below)
        yield f"{path}: {what} since {base[:12]}; filed records stay as they are, a newer one may supersede them"


def filed_since(results: Path, against: str) -> list[Path]:
    """Records that `against` had not filed where this work began, committed or not, in path order. Errors: those of
    `history_faults`."""
    folder, below, base = _beginning(results, against)
    told = git(folder, "ls-tree", "-r", "-z", "--name-only", base, "--", f"{below}/")
    if told is None:
        raise BadInputError(f"--against {against}: git cannot list {results} of {base[:12]}")
    known = {results / Path(name).relative_to(below) for name in told.split("\0") if name}
    return [path for path in sorted(results.rglob(RECORD_NAME)) if path not in known]


def _beginning(results: Path, against: str) -> tuple[Path, Path, str]:
    """A folder of the checkout that holds `results`, their place below it, and the commit where this work began."""
    place = results.absolute()
    folder = next(parent for parent in place.parents if parent.is_dir())
    below = place.relative_to(folder)
    commit = git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{against}^{{commit}}")
    if not commit:
        raise BadInputError(f"--against {against}: no such commit in the git checkout of {results}; fetch it first")
    base = git(folder, "merge-base", commit, "HEAD")
    if not base:
        raise BadInputError(f"--against {against}: shares no history with HEAD here; fetch all of it (fetch-depth: 0)")
    return folder, below, base
