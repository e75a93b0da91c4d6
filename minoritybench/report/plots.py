"""Marks and plots of the leaderboard page as inline SVG, coloured by the page's classes, readable without colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

Interval = tuple[float, float, float]
"""Low end, value, high end; the three are equal where nothing but the value is known."""

_WIDTH, _HEIGHT = 480, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 140, 14, 46
_LABEL_STEP = 15


@dataclass(frozen=True)
class Point:
    """A row in a plot of two of its numbers; `name` tells rows apart, `group` what a filter hides together."""

    name: str
    group: str
    x: Interval
    y: Interval


def interval_mark(value: Interval, span: tuple[float, float]) -> Markup:
    """A line from the low to the high end with a bar across at the value, in the scale of its column; 100 x 8 units."""
    low, high = span
    width = (high - low) or 1.0
    start, middle, end = (2 + 96 * (part - low) / width for part in value)
    path = f"M{start:.1f} 4H{end:.1f}M{middle:.1f} 0V8"
    return Markup(
        f'<svg class="ci" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true"><path d="{path}"/></svg>'
    )


def scatter_svg(points: Sequence[Point], *, x_label: str, y_label: str, caption: str) -> Markup:
    """Points with the intervals of both numbers, named at the right side with a thin line to each."""
    x_low, x_high, x_ticks = _axis([point.x for point in points])
    y_low, y_high, y_ticks = _axis([point.y for point in points])

    def x(value: float) -> float:
        return _LEFT + (value - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - y_low) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM)

    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = [f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none"/>']
    parts += [_text(x(tick), bottom + 17, f"{tick:g}", "middle") for tick in x_ticks]
    parts += [_text(_LEFT - 7, y(tick) + 4, f"{tick:g}", "end") for tick in y_ticks]
    if y_low < 0 < y_high:
        parts.append(f'<path class="zero" d="M{_LEFT} {y(0):.1f}H{right}"/>')
    order = sorted(points, key=lambda point: (y(point.y[1]), x(point.x[1]), point.name))
    heights = _spread([y(point.y[1]) for point in order])
    for point, height in zip(order, heights, strict=True):
        parts.append(_point(point, [x(v) for v in point.x], [y(v) for v in point.y], height))
    parts.append(_text((_LEFT + right) / 2, _HEIGHT - 8, x_label, "middle"))
    parts.append(
        f'<text class="tick" transform="translate(12 {(_TOP + bottom) / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return Markup(f'<svg class="scatter" {box} role="img" aria-label="{escape(caption)}">{"".join(parts)}</svg>')


def _point(point: Point, x: Sequence[float], y: Sequence[float], label_y: float) -> str:
    """Error bars, a dot, and its name at the right, joined by a line."""
    start = _WIDTH - _RIGHT + 14
    bars = f"M{x[0]:.1f} {y[1]:.1f}H{x[2]:.1f}M{x[1]:.1f} {y[0]:.1f}V{y[2]:.1f}"
    told = f"{point.name}: {point.x[1]:.2f}, {point.y[1]:.2f}"
    return (
        f'<g class="point" data-method="{escape(point.group)}"><title>{escape(told)}</title>'
        f'<path class="lead" d="M{x[1]:.1f} {y[1]:.1f}L{start - 4} {label_y:.1f}"/><path class="error" d="{bars}"/>'
        f'<circle cx="{x[1]:.1f}" cy="{y[1]:.1f}" r="4"/>{_text(start, label_y + 4, point.name, "start", "name")}</g>'
    )


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _axis(values: Sequence[Interval]) -> tuple[float, float, list[float]]:
    """Range that holds every interval, with a margin, and about five round ticks in it."""
    low, high = min(value[0] for value in values), max(value[2] for value in values)
    margin = 0.06 * (high - low) or 1.0
    low, high = low - margin, high + margin
    rough = (high - low) / 5
    power = 10.0 ** np.floor(np.log10(rough))
    step = float(min((1, 2, 5, 10), key=lambda factor: abs(factor * power - rough)) * power)
    ticks = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
    return low, high, [round(float(tick), 10) + 0.0 for tick in ticks]  # + 0.0: no negative zero


def _spread(heights: Sequence[float]) -> list[float]:
    """Ascending heights moved apart to at least a line of text, each as little as may be, within the plot."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + _LABEL_STEP) if placed else max(height, _TOP))
    limit = float(_HEIGHT - _BOTTOM + 10)
    for number in reversed(range(len(placed))):
        placed[number] = min(placed[number], limit)
        limit = placed[number] - _LABEL_STEP
    return placed
