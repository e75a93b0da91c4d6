"""The command of a filed record gives that record."""

from __future__ import annotations

from pathlib import Path

import pytest

from minoritybench.command_checks import request_faults
from minoritybench.leaderboards import declared_record
from minoritybench.record_checks import content_faults
from minoritybench.records import load_benchmark
from minoritybench.references import load_reference_set

SHIPPED = Path(__file__).parents[1] / "leaderboards" / "results"


def faults_of(board: str, flags: str) -> list[str]:
    """Of the filed row of sgms, had its command these flags."""
    benchmark = load_benchmark(board)
    record = declared_record(benchmark, "sgms", SHIPPED)
    told = record.model_copy(update={"command": f"minoritybench evaluate --method sgms {flags}".strip()})
    return list(request_faults(told, benchmark, load_reference_set(benchmark.reference_set)))


@pytest.mark.parametrize(
    ("board", "flags", "fault"),
    [
        ("digits", "--set w=0.1", "command gives --set w=0.1, the record has 0.4"),
        ("digits", "--set=w=0.1", "command gives --set w=0.1, the record has 0.4"),
        ("digits", "--set preset=paper", "command gives --set preset='paper', the record has 'reference'"),
        ("digits", "--n 500", "command asks for --n 500, the record has 1000"),
        ("digits", "--seed 11", "command asks for --seed 11, the record has 11, 12, 13"),
        ("digits", "--class-conditional", "command has --class-conditional, the record says the opposite"),
        ("digits", "--guide digits-vicreg", "command asks for --guide digits-vicreg, the record has digits-jepa"),
        (
            "digits",
            "--judge digits-vicreg",
            "command asks for --judge digits-ijepa, digits-jepa-b, digits-vicreg, the record has digits-ijepa,"
            " digits-jepa-b",
        ),
        ("digits", "--generator digits-sd", "command asks for --generator digits-sd, the record has digits-ddpm"),
        ("digits", "--chain guidance_scale=3", "command has --chain, and digits has no prompts"),
        ("digits", "--samples folder", "command has --samples, the record is of a method"),
        ("digits-t2i", "", "command asks for --benchmark digits, the record has digits-t2i"),
        (
            "digits-t2i",
            "--benchmark digits-t2i --chain guidance_scale=3",
            "command gives --chain guidance_scale=3.0, the record has 2.0",
        ),
    ],
)
def test_flags_that_would_give_another_record(board: str, flags: str, fault: str) -> None:
    assert faults_of(board, flags) == [fault]


@pytest.mark.parametrize(
    ("board", "flags"),
    [
        ("digits", ""),
        ("digits", "--benchmark digits --n 1000 --seed 11 --seed 12 --seed 13 --set w=0.4 --guide digits-jepa"),
        ("digits", "--judge digits-ijepa --generator digits-ddpm --device cuda --batch-size 8"),
        ("digits-t2i", "--benchmark digits-t2i --chain guidance_scale=2 --set w=5e-3"),
    ],
)
def test_flags_that_give_the_record(board: str, flags: str) -> None:
    assert faults_of(board, flags) == []


def test_the_check_asks_and_tells_settings_that_no_method_has() -> None:
    """Of current records: those that are superseded are not held against methods of today."""
    record = declared_record(load_benchmark("digits"), "sgms", SHIPPED)
    for flags, message in ((" --set w=0.1", "command gives --set w=0.1"), (" --set x=1", "--set x: sgms has no such")):
        told = record.model_copy(update={"command": record.command + flags})
        told = told.model_copy(update={"id": told.content_id()})
        (fault,) = content_faults(told, told.model_dump(mode="json"))
        assert fault.startswith(message)
        assert list(content_faults(told, told.model_dump(mode="json"), superseded=True)) == []
