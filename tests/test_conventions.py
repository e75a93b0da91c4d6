"""docs/conventions.md names options and tests that are there."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

from minoritybench.records import TextSpec
from minoritybench.registry import entries, resolve

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "conventions.md").read_text("utf-8")
TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)))


def test_there_are_tests_to_look_for() -> None:
    assert len(TESTS) > 35
    assert TEXT.count("`tests/") == len(re.findall(r"`tests/[\w/]+\.py::\w+`", TEXT))


@pytest.mark.parametrize("file", sorted({file for file, _ in TESTS}))
def test_every_test_named_exists(file: str) -> None:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {name for where, name in TESTS if where == file} <= functions


def test_every_hyperparameter_and_chain_setting_named_exists() -> None:
    text = " ".join(TEXT.split())
    known = {field.name for name in entries("methods") for field in fields(resolve("methods", name))} | {"preset"}
    assert set(re.findall(r"--set (\w+)=", text)) <= known
    assert set(re.findall(r"--chain (\w+)=", text)) <= set(TextSpec.model_fields)
