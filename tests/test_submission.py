"""SUBMITTING.md and the workflows name commands that exist; the workflows have no more rights than they need."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from forged_records import git

from minoritybench.cli import cli
from minoritybench.record_files import LARGEST, MEBIBYTE
from minoritybench.records import load_benchmark

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SUBMITTING = (ROOT / "SUBMITTING.md").read_text("utf-8")


def parse(line: str) -> None:
    """Fails where a command or an option of the line does not exist; runs nothing."""
    words = shlex.split(line)[1:]
    command: click.Command = cli
    context = click.Context(cli, info_name="minoritybench")
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None, line
        command = found
    command.make_context("x", words, parent=context)


def load(path: Path) -> dict[Any, Any]:
    document: dict[Any, Any] = yaml.safe_load(path.read_text("utf-8"))
    return document


def test_the_three_workflows_are_there() -> None:
    assert [path.name for path in WORKFLOWS] == ["leaderboard.yml", "submission.yml", "tests.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_reads_and_holds_no_secret(path: Path) -> None:
    text, document = path.read_text("utf-8"), load(path)
    assert document["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in document["jobs"].values())
    assert "secrets." not in text
    assert "pull_request_target" not in document[True]  # YAML reads the key `on` as true
    for job in document["jobs"].values():
        checkouts = [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")]
        assert checkouts
        assert all(step["with"]["persist-credentials"] is False for step in checkouts)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_nothing_of_a_pull_request_is_pasted_into_a_script(path: Path) -> None:
    """A title or branch name in `${{ }}` of a script would be run; values go through the environment."""
    for job in load(path)["jobs"].values():
        for step in job["steps"]:
            assert re.findall(r"\$\{\{\s*(?!matrix\.)\w", step.get("run", "")) == []


def test_submissions_are_checked_against_where_they_began() -> None:
    document = load(ROOT / ".github" / "workflows" / "submission.yml")
    assert list(document[True]) == ["pull_request"]
    steps = document["jobs"]["check"]["steps"]
    assert steps[0]["with"]["fetch-depth"] == 0
    assert any("--against" in step.get("run", "") for step in steps)
    assert any('--against "$BASE" --remeasure new' in step.get("run", "") for step in steps)
    assert document["jobs"]["check"]["timeout-minutes"] == 120


def said_by_step(name: str, checkout: Path, changed: str) -> tuple[int, str]:
    """Exit code and output of a step's own script, where the branch has changed one file and main another since."""
    steps = load(ROOT / ".github" / "workflows" / "submission.yml")["jobs"]["check"]["steps"]
    (script,) = [step["run"] for step in steps if step.get("name") == name]

    def commit(text: str, *files: str) -> None:
        for file in files:
            (checkout / file).parent.mkdir(parents=True, exist_ok=True)
            (checkout / file).write_text(text)
        git(checkout, "add", "-A")
        git(checkout, "commit", "-qm", "change")

    watched = ("leaderboards/badges.json", "leaderboards/published/cifar10.json")
    git(checkout, "init", "-q")
    commit("[]", *watched)
    git(checkout, "switch", "-qc", "branch")
    commit("new", changed)
    git(checkout, "switch", "-q", "main")
    commit("[1]", *watched)
    git(checkout, "switch", "-q", "branch")
    environment = {**os.environ, "BASE": "main"}
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("changed", "code"), [("leaderboards/badges.json", 1), ("leaderboards/results/new/record.json", 0)]
)
def test_a_submission_cannot_grant_badges(tmp_path: Path, changed: str, code: int) -> None:
    returned, said = said_by_step("no badges in a pull request", tmp_path, changed)
    assert returned == code
    assert said.startswith("::error file=leaderboards/badges.json::") == bool(code)
    assert said.count("\n") == code


@pytest.mark.parametrize(
    ("changed", "warned"),
    [
        ("leaderboards/published/cifar10.json", True),
        ("leaderboards/published/new.json", True),
        ("leaderboards/results/new/record.json", False),
    ],
)
def test_changed_figures_from_papers_are_pointed_out(tmp_path: Path, changed: str, warned: bool) -> None:
    code, said = said_by_step("say whether figures from papers change", tmp_path, changed)
    assert code == 0
    assert said.startswith("::warning::This pull request changes figures from papers") == warned
    assert (changed in said) == warned


def test_every_embedded_board_with_rows_is_measured_again() -> None:
    """One method of each in `.ci/run`, all rows in the leaderboard workflow."""
    rows = {path.name for path in (ROOT / "leaderboards" / "results").iterdir()}
    embedded = {name for name in rows if load_benchmark(name).generator in ("digits-ddpm", "digits-sd")}
    (line,) = re.findall(
        r"^minoritybench leaderboard check .*", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE
    )
    parse(line)
    assert set(re.findall(r"--benchmark (\S+)", line)) == embedded
    jobs = load(ROOT / ".github" / "workflows" / "leaderboard.yml")["jobs"]
    assert set(jobs["remeasure"]["strategy"]["matrix"]["benchmark"]) == embedded


def test_tests_run_on_two_versions_of_python() -> None:
    assert len(load(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]["tests"]["strategy"]["matrix"]["python"]) == 2


def test_commands_of_the_workflows_exist() -> None:
    text = "\n".join(path.read_text("utf-8") for path in WORKFLOWS)
    lines = re.findall(r"^\s*(?:- run: |run: )?(minoritybench [^\n|]*)$", text, re.MULTILINE)
    assert len(lines) == 5
    for line in lines:
        parse(line.replace("${{ matrix.benchmark }}", "digits"))


def test_commands_of_the_guide_exist() -> None:
    blocks = "".join(re.findall(r"```sh\n(.*?)```", SUBMITTING, re.DOTALL))
    inline = [text for text in re.findall(r"`(minoritybench leaderboard [^`]*)`", SUBMITTING) if "METHOD" not in text]
    for line in [*blocks.strip().splitlines(), *inline]:
        parse(" ".join(line.split()))


def test_the_guide_tells_the_true_sizes() -> None:
    for name, limit in LARGEST.items():
        assert f"{name} {limit // MEBIBYTE} MiB" in SUBMITTING
