"""benchmarks/uncertainty.py at a quick size: the jackknife holds what it claims, a bootstrap does not."""

from __future__ import annotations

import logging
import runpy
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "uncertainty.py"


@pytest.fixture(scope="module")
def simulation() -> dict[str, Any]:
    return runpy.run_path(str(BENCHMARK))


@pytest.fixture(autouse=True)
def _no_warnings_of_duplicates() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def test_frechet_distance(simulation: dict[str, Any]) -> None:
    found = simulation["examine"](simulation["studies"]()[0], 400, 60, 20, 40)
    assert found.hits["jackknife"] >= 0.88
    assert found.resampled > found.truth + found.spread
    picture = ElementTree.fromstring(simulation["figure"]([found]))
    assert picture.tag.endswith("svg")
    assert "FD" in "".join(picture.itertext())


@pytest.mark.slow
def test_coverage(simulation: dict[str, Any]) -> None:
    found = simulation["examine"](simulation["studies"]()[4], 300, 60, 15, 40)
    assert found.hits["jackknife"] >= 0.88
    assert found.hits["bootstrap"] <= 0.2
    assert found.resampled < found.truth - 2 * found.spread
