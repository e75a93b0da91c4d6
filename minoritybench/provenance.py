"""Which code, machine and packages made a result."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import minoritybench
from minoritybench.records import Environment, ToolRecord

_CODE = ("minoritybench", "baselines", "reference_sets", "pyproject.toml")
_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "prdc", "pillow", "transformers", "diffusers")


def tool_record() -> ToolRecord:
    """Version, commit and whether the code differs from it; commit and dirty are None outside a git checkout."""
    root = Path(minoritybench.__file__).parent.parent
    commit = git(root, "rev-parse", "HEAD")
    tracked = git(root, "ls-files", "pyproject.toml")  # an installed copy inside someone else's repository is not ours
    if not commit or not tracked:
        return ToolRecord(version=minoritybench.__version__, commit=None, dirty=None)
    changes = git(root, "status", "--porcelain", "--", *_CODE)
    return ToolRecord(version=minoritybench.__version__, commit=commit, dirty=changes is None or changes != "")


def made_by(tools: Iterable[Mapping[str, Any]]) -> ToolRecord:
    """The code behind results whose parts were made in `tools` states: dirty unless all are one clean commit, the
    present one included, for a run may be resumed after the code has changed."""
    now = tool_record()
    states = [ToolRecord.model_validate(tool) for tool in tools]
    if all(state == now for state in states):
        return now
    return now.model_copy(update={"dirty": True})


def git(folder: Path, *arguments: str) -> str | None:
    """What git says in a folder, without surrounding white space; None where it fails or there is none."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def environment(device: str) -> Environment:
    """Python, torch, device and the packages that numbers depend on."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    torch_version = packages.pop("torch")
    described = f"{device} ({platform.system()} {platform.machine()})"
    return Environment(python=platform.python_version(), torch=torch_version, device=described, packages=packages)


def peak_memory_bytes(device: str = "cpu") -> int:
    """The most memory held so far: on a GPU that of its allocator, else the largest resident set of this process or any
    of its children."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) * unit


def utc_now() -> str:
    """The present moment, ISO 8601, to the second."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()
