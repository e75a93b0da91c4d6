"""What is installed, which weights are here, and what each benchmark still needs. Nothing is opened or downloaded."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from packaging.requirements import Requirement

import minoritybench
from minoritybench.errors import MinorityBenchError
from minoritybench.presence import benchmark_parts, find, finder_of
from minoritybench.records import BenchmarkSpec, load_benchmark
from minoritybench.registry import entries

_WEIGHTS = ("generators", "encoders", "features")
_OPTIONAL = {"ray": "--engine ray", "playwright": "browser tests"}
"""Packages that add something, and what: no command fails without them otherwise."""


def diagnose() -> dict[str, Any]:
    """`minoritybench`, `python`, `system`, `device`, `cache`, `packages`, `weights` and `benchmarks`, as plain data.

    A benchmark's `lacks` and absent weights carry the line that says where to get them; a benchmark that lacks nothing
    is `ready`, as far as methods need nothing of their own (`prepare`, `distance:`).
    """
    from minoritybench.assets import cache_folder

    return {
        "minoritybench": minoritybench.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": _device(),
        "cache": str(cache_folder()),
        "packages": list(_packages()),
        "weights": list(_weights()),
        "benchmarks": [_benchmark(load_benchmark(name)) for name in sorted(entries("benchmarks"))],
    }


def _device() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return {
        "cpu_threads": torch.get_num_threads(),
        "cpu_cores": os.cpu_count(),
        "cuda": [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in gpus],
        "mps": torch.backends.mps.is_available(),
    }


def _packages() -> Iterator[dict[str, Any]]:
    wanted = [Requirement(line) for line in requires("minoritybench") or []]
    required = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    for one in sorted(required, key=lambda one: one.name.lower()):
        installed = _installed(one.name)
        fits = installed is not None and one.specifier.contains(installed, prereleases=True)
        yield _package(one.name, installed, str(one.specifier), fits, None)
    for name, purpose in _OPTIONAL.items():
        yield _package(name, _installed(name), "", True, purpose)


def _package(name: str, installed: str | None, wanted: str, fits: bool, purpose: str | None) -> dict[str, Any]:
    return {"name": name, "installed": installed, "wanted": wanted, "fits": fits, "optional": purpose}


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _weights() -> Iterator[dict[str, Any]]:
    """Every registered network that can be looked for without opening it, families such as `timm:*` apart; a network
    that is encoder and features in one stands once."""
    seen: set[str] = set()
    for kind in _WEIGHTS:
        for name in sorted(entries(kind)):
            if name.endswith(":*") or name in seen or finder_of(kind, name) is None:
                continue
            seen.add(name)
            lack = _lack(partial(find, kind, name))
            yield {"kind": kind, "name": name, "here": lack is None, "get": lack}


def _benchmark(benchmark: BenchmarkSpec) -> dict[str, Any]:
    parts = [(part.role, part.name, part.find) for part in benchmark_parts(benchmark)]
    parts.insert(0, ("generator", benchmark.generator, partial(find, "generators", benchmark.generator)))
    found = [(role, name, _lack(finder)) for role, name, finder in parts]
    lacks = [{"role": role, "name": name, "get": line} for role, name, line in found if line is not None]
    return {"name": benchmark.name, "title": benchmark.title, "ready": not lacks, "lacks": lacks}


def _lack(finder: Callable[[], object]) -> str | None:
    """What is wrong with a part, on one line: absent, or not what it should be."""
    try:
        finder()
    except MinorityBenchError as error:
        return " ".join(str(error).split())
    return None


def diagnosis_text(facts: dict[str, Any]) -> str:
    """The same for people."""
    device = facts["device"]
    gpus = [f"cuda:{n} {gpu['name']}, {gpu['memory_bytes'] / 2**30:.0f} GiB" for n, gpu in enumerate(device["cuda"])]
    devices = [f"cpu, {device['cpu_threads']} threads", *gpus, *(["mps"] if device["mps"] else [])]
    lines = [
        f"minoritybench {facts['minoritybench']}, Python {facts['python']}, {facts['system']}",
        f"devices: {'; '.join(devices)}",
        f"files fetched by hand belong under {facts['cache']}",
        "",
        "packages",
        *map(_package_line, facts["packages"]),
        "",
        "weights",
    ]
    for word, here in (("here", True), ("absent", False)):
        names = [one["name"] for one in facts["weights"] if one["here"] == here]
        lines.append(f"  {word:<7}{', '.join(names) or 'none'}")
    lines += ["", "benchmarks"]
    for one in facts["benchmarks"]:
        lines.append(f"  {one['name']}: " + ("ready" if one["ready"] else f"lacks {len(one['lacks'])}"))
        lines += [f"    {_told(lack)}" for lack in one["lacks"]]
    return "\n".join(lines)


def _told(lack: dict[str, Any]) -> str:
    """The line of a lack, which begins with its role and name."""
    role, name, line = lack["role"], lack["name"], str(lack["get"])
    if line.startswith(f"{role} "):
        return line
    return f"{role} {line}" if line.startswith(name) else f"{role} {name}: {line}"


def _package_line(package: dict[str, Any]) -> str:
    name, installed, wanted = package["name"], package["installed"] or "absent", package["wanted"]
    if package["optional"]:
        return f"  {name:<18}{installed:<14}optional: {package['optional']}"
    fault = "" if package["fits"] else f"  wanted {wanted}: pip install '{name}{wanted}'"
    return f"  {name:<18}{installed}{fault}"
