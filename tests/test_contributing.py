"""The example of CONTRIBUTING.md runs as it is printed there: as a file, and as a package that registers it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

import minoritybench
from minoritybench.cli.sample import command

FEW = ("--n", "3", "--seed", "0")


def printed(language: str) -> str:
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    (block,) = re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    return block


def digests(folder: Path) -> list[str]:
    return [row["sha256"] for row in json.loads((folder / "samples.json").read_text())]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Digests of the same samples drawn without any drift."""
    out = tmp_path_factory.mktemp("plain") / "out"
    minoritybench.sample("adm", out, n=3, seeds=(0,))
    return digests(out)


def test_example_runs_from_its_file(plain: list[str], tmp_path: Path) -> None:
    (tmp_path / "drift.py").write_text(printed("python"))
    for strength, moved in ((0.0, False), (0.2, True)):
        out = tmp_path / f"{strength}"
        words = ["--method", f"{tmp_path / 'drift.py'}:Drift", "--set", f"strength={strength}", "--out", str(out)]
        done = CliRunner().invoke(command, [*words, *FEW])
        assert done.exit_code == 0, done.exception
        assert all(a != b for a, b in zip(digests(out), plain, strict=True)) == moved


def test_example_package_registers_its_method(plain: list[str], tmp_path: Path) -> None:
    (tmp_path / "drift.py").write_text(printed("python"))
    project = tomllib.loads(printed("toml"))["project"]
    info = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))

    def run(*words: str) -> str:
        path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
        full = [sys.executable, "-m", "minoritybench", *words]
        done = subprocess.run(
            full, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = {row["name"]: row["summary"] for row in json.loads(run("list", "methods", "--json"))}
    assert listed["drift"] == "from minority-drift"
    run("sample", "--method", "drift", "--set", "strength=0.2", "--out", str(tmp_path / "out"), *FEW)
    assert all(a != b for a, b in zip(digests(tmp_path / "out"), plain, strict=True))
