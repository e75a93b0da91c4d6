"""Charts: their geometry says what the numbers are."""

from __future__ import annotations

import re

import numpy as np
import pytest

from minoritybench.report.charts import band_svg


def heights(svg: str, pattern: str) -> list[float]:
    """The y coordinates of a shape's points."""
    found = re.search(pattern, svg)
    assert found is not None
    return [float(point.split(",")[1]) for point in found.group(1).split()]


def test_band_is_the_mean_plus_and_minus_one_standard_deviation() -> None:
    mean, deviation = [0.0, 1.0, 0.5], [1.0, 1.0, 0.25]
    svg = str(band_svg(mean, deviation, label="sigma"))
    ticks = [(float(y) - 4, float(v)) for y, v in re.findall(r'y="([\d.]+)" text-anchor="end">([-\d.]+)<', svg)]
    (y_low, low), (y_high, high) = ticks
    assert (low, high) == (-1.0, 2.0)

    def value(y: float) -> float:
        return low + (y - y_low) / (y_high - y_low) * (high - low)

    band = [value(y) for y in heights(svg, r'class="band" points="([^"]+)"')]
    line = [value(y) for y in heights(svg, r'class="line" points="([^"]+)"')]
    assert band[:3] == pytest.approx(np.add(mean, deviation), abs=2e-3)
    assert band[:2:-1] == pytest.approx(np.subtract(mean, deviation), abs=2e-3)
    assert line == pytest.approx(mean, abs=2e-3)
