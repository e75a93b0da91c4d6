"""Records spoilt in a known way, with or without an id that fits what they now say."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from minoritybench import leaderboards, record_checks, records
from minoritybench.metrics import t_interval
from minoritybench.records import BenchmarkSpec, RunRecord, load_benchmark, metric_id
from minoritybench.report.pictures import png_bytes
from minoritybench.store import pretty_json, sha256_file


def saved(record: RunRecord, path: Path) -> Path:
    """Write a record with a matching id."""
    record = record.model_copy(update={"id": record.content_id()})
    path.write_text(pretty_json(record.model_dump(mode="json")))
    return path


def few() -> BenchmarkSpec:
    """The digits benchmark with the n of what `small` drew."""
    return load_benchmark("digits").model_copy(update={"n": 12})


def ask_for_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the n of the digits benchmark to what `small` drew."""
    spec = few()
    for module in (leaderboards, record_checks, records):
        monkeypatch.setattr(module, "load_benchmark", lambda name: spec if name == spec.name else load_benchmark(name))


def git(folder: Path, *arguments: str) -> None:
    """A git command with an identity of its own."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def filed(boards: Path) -> Path:
    return next((boards / "results").rglob("record.json"))


def tamper(field: str, value: object, *, honest_id: bool = False):  # type: ignore[no-untyped-def]
    def change(path: Path) -> None:
        document = json.loads(path.read_text())
        *parents, last = field.split(".")
        node = document
        for part in parents:
            node = node[int(part)] if part.isdecimal() else node[part]
        node[last] = value
        write(path, document, honest_id=honest_id)

    return change


def write(path: Path, document: dict[str, Any], *, honest_id: bool = True) -> None:
    if honest_id:
        document["id"] = RunRecord.model_validate(document).content_id()
    path.write_text(json.dumps(document))


def forged(field: str, value: object):  # type: ignore[no-untyped-def]
    return tamper(field, value, honest_id=True)


def forge_metric(name: str, **changes: Any):  # type: ignore[no-untyped-def]
    """Change fields of a metric; a changed `params` gets a matching id, changed `per_seed` values a matching mean."""

    def change(path: Path) -> None:
        document = json.loads(path.read_text())
        metric = next(metric for metric in document["metrics"] if metric["name"] == name)
        metric.update(changes)
        if "params" in changes and "id" not in changes:
            metric["id"] = metric_id(name, metric["params"])
        if "per_seed" in changes:
            metric["value"], metric["ci_low"], metric["ci_high"] = t_interval(list(metric["per_seed"].values()))
        write(path, document)

    return change


def forge_sidecar(edit: Callable[[pd.DataFrame], pd.DataFrame]):  # type: ignore[no-untyped-def]
    """Change the per-image table and give the record its new digest."""

    def change(path: Path) -> None:
        sidecar = path.parent / "per_image.parquet"
        edit(pd.read_parquet(sidecar)).to_parquet(sidecar, index=False)
        document = json.loads(path.read_text())
        listed = next(item for item in document["artifacts"] if item["path"] == sidecar.name)
        listed.update(sha256=sha256_file(sidecar), bytes=sidecar.stat().st_size)
        write(path, document)

    return change


def forge_sheet(edit: Callable[[bytes], bytes]):  # type: ignore[no-untyped-def]
    """Change sheet.png and give the record its new digest."""

    def change(path: Path) -> None:
        sheet = path.parent / "sheet.png"
        sheet.write_bytes(edit(sheet.read_bytes()))
        document = json.loads(path.read_text())
        listed = next(item for item in document["artifacts"] if item["path"] == sheet.name)
        listed.update(sha256=sha256_file(sheet), bytes=sheet.stat().st_size)
        write(path, document)

    return change


def redraw(edit: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]):  # type: ignore[no-untyped-def]
    """Change the pixels of sheet.png, uint8 `(H, W, 3)`."""
    return forge_sheet(lambda data: png_bytes(edit(np.array(Image.open(io.BytesIO(data))))))


def flip_last_byte(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def drop_metric(name: str):  # type: ignore[no-untyped-def]
    def change(path: Path) -> None:
        document = json.loads(path.read_text())
        document["metrics"] = [metric for metric in document["metrics"] if metric["name"] != name]
        write(path, document)

    return change


def add_metric(path: Path) -> None:
    document = json.loads(path.read_text())
    document["metrics"].append({**document["metrics"][0], "name": "charm"})
    write(path, document)


def nudge(name: str, by: float = 1.0):  # type: ignore[no-untyped-def]
    def edit(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(**{name: table[name] + by})

    return edit
