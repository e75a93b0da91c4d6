"""Files that are either whole or absent: atomic writes, digests, shard receipts, a lock on the output folder."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minoritybench.errors import BadInputError

PLAN_FILE = "plan.json"
PLAN_KINDS = frozenset({"rank-dataset", "sample", "evaluate", "analyze-scores", "prepare", "features"})
LOCK_FILE = ".lock"
_UNFINISHED_PLAN = re.compile(r"\.plan\.json\..*\.part")
_OUR_NAMES = re.compile(
    r"plan\.json|receipts|shards|samples|measures|seed-\d+|samples\.json|scores\.parquet|reference_set\.json|members\.csv"
    r"|failures\.csv|gallery\.html|record\.json|per_image\.parquet|sheet\.png|analysis\.json|analysis\.html|report\.html|checkpoint\.pt"
)


def canonical_json(value: Any) -> str:
    """One spelling a value: sorted keys, no spaces, shortest round-trip floats, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def pretty_json(value: Any) -> str:
    """Indented JSON with a final newline, keys in the order given."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def digest_of(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, in hex, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; on success it becomes `path`, on any error nothing is left.

    The name is new for each writer, so two writers of one artefact never mix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(0o644)  # mkstemp is private to the user; an artefact is not
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as part:
        part.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically, newlines as given."""
    write_bytes(path, text.encode())


def read_json(path: Path) -> Any:
    """Parse a JSON file; a broken one is a one-line error that names it."""
    try:
        value = json.loads(path.read_text("utf-8"))
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate, given as an escape, could be printed nowhere
        return value
    except FileNotFoundError as error:
        raise BadInputError(f"no such file: {path}") from error
    except (OSError, ValueError, RecursionError) as error:  # also: absurdly long integers, absurdly deep nesting
        raise BadInputError(f"{path} is not readable JSON: {error}") from error


class Receipts:
    """Which shards are done. A receipt is written last and lists its shard's files with their digests.

    A shard is done when its receipt is unedited, belongs to the plan of digest `token`, has every fact in `facts`, and
    every file it lists has the stated size and SHA-256; anything else is done again, so a kill at any point costs at
    most the shards in flight.
    """

    def __init__(self, root: Path, stage: str, token: str, facts: frozenset[str] = frozenset()) -> None:
        self.root = root
        self.stage = stage
        self.token = token
        self._needed = facts

    def path(self, shard: int) -> Path:
        """Where the receipt of a shard stands."""
        return self.root / "receipts" / f"{self.stage}-{shard:06d}.json"

    def write(self, shard: int, files: list[Path], facts: dict[str, Any]) -> None:
        """Declare a shard done: `files` lie below the root, `facts` is what the shard reports."""
        listed = [
            {"path": f.relative_to(self.root).as_posix(), "bytes": f.stat().st_size, "sha256": sha256_file(f)}
            for f in files
        ]
        receipt = {"shard": shard, "plan": self.token, "files": listed, "facts": facts}
        write_text(self.path(shard), pretty_json({**receipt, "sha256": digest_of(receipt)}))

    def read(self, shard: int) -> dict[str, Any] | None:
        """The facts of a shard that is done, else None."""
        try:
            receipt = json.loads(self.path(shard).read_text("utf-8"))
            written = receipt.pop("sha256") == digest_of(receipt) and receipt["plan"] == self.token
            whole = written and all(self._valid(item) for item in receipt["files"])
            facts: dict[str, Any] = receipt["facts"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # absent, truncated or foreign: the shard counts as not done
        return facts if whole and isinstance(facts, dict) and self._needed <= facts.keys() else None

    def _valid(self, item: dict[str, Any]) -> bool:
        path = self.root / item["path"]
        return path.is_file() and path.stat().st_size == item["bytes"] and sha256_file(path) == item["sha256"]


def open_output(folder: Path, plan: dict[str, Any], *, force: bool) -> None:
    """Claim a folder that `folder_lock` holds for the work that `plan` describes, before anything is computed.

    A new folder gets the plan; the same plan resumes; a different one is refused unless `force`, which then removes
    what an earlier run of ours left there, by name, and nothing else.
    """
    marker = folder / PLAN_FILE
    if marker.is_file():
        started = read_json(marker)
        if not force and canonical_json(started) == canonical_json(plan):
            return
        if not force:
            changed = _first_difference(started, plan)
            raise BadInputError(
                f"--out {folder} holds other work ({changed}); choose another --out or pass --force to replace it"
            )
        _clear(folder)
    write_text(marker, pretty_json(plan))


def refuse_overlap(out: Path, inputs: Path, *, inside: bool = False) -> None:
    """An output folder may be neither its own input nor around it; nor `inside` it, unless that is allowed."""
    ours, theirs = out.resolve(), inputs.resolve()
    if ours == theirs or ours in theirs.parents or (not inside and theirs in ours.parents):
        raise BadInputError(f"--out {out} overlaps the input {inputs}; choose a folder apart from it")


def _refuse_foreign(folder: Path) -> None:
    """A folder that is neither new nor ours is not touched at all, not even to lock it."""
    marker = folder / PLAN_FILE
    if marker.is_file():
        plan = read_json(marker)
        if not (isinstance(plan, dict) and plan.get("kind") in PLAN_KINDS):
            raise BadInputError(
                f"--out {folder} holds a {PLAN_FILE} that minoritybench did not write; choose another folder"
            )
        return
    for item in folder.iterdir():
        if item.name != LOCK_FILE and not _UNFINISHED_PLAN.fullmatch(item.name):
            raise BadInputError(f"--out {folder} is not empty and was not made by minoritybench; choose another folder")
        if item.name == LOCK_FILE and item.stat().st_size > 0:
            raise BadInputError(f"--out {folder} holds a {LOCK_FILE} that is not ours; choose another folder")


def _clear(folder: Path) -> None:
    """Remove what our runs leave, by name; anything else in the folder stays. The plan goes last: a folder without one
    is nobody's, and a kill half-way would leave it so."""
    ours = [item for item in folder.iterdir() if _OUR_NAMES.fullmatch(item.name)]
    for item in sorted(ours, key=lambda item: item.name == PLAN_FILE):
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink()


def _first_difference(old: Any, new: Any, field: str = "plan") -> str:
    """The first field, in depth, in which two plans differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        key = next(key for key in sorted(set(old) | set(new)) if old.get(key) != new.get(key))
        return _first_difference(old.get(key), new.get(key), key if field == "plan" else f"{field}.{key}")
    return f"{field}: {_short(old)} there, {_short(new)} asked for"


def _short(value: Any) -> str:
    text = canonical_json(value)
    return text if len(text) <= 60 else text[:57] + "..."


@contextmanager
def folder_lock(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold `folder` for this process (a second one is told at once, or waits) and sweep up what a killed writer
    left."""
    if folder.exists() and not folder.is_dir():
        raise BadInputError(f"--out {folder} is a file; name a folder")
    try:
        if folder.is_dir():
            _refuse_foreign(folder)
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / LOCK_FILE).open("a")
    except OSError as error:
        raise BadInputError(f"--out {folder} cannot be written: {error.strerror}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            raise BadInputError(f"another process works in {folder}; wait for it or choose another --out") from error
        for part in folder.rglob(".*.part"):
            part.unlink(missing_ok=True)
        yield
