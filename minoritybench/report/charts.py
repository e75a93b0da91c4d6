"""Two small charts as inline SVG, coloured by the page's CSS variables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

Axis = Callable[[float], float]

_WIDTH, _HEIGHT = 420, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 34


def histogram_svg(values: Sequence[float], *, threshold: float, label: str, bins: int = 48) -> Markup:
    """Counts of `values`; bars at or below `threshold` are highlighted and the threshold marked."""
    counts, edges = np.histogram(np.asarray(values, dtype=np.float64), bins=bins)
    x = _scale(float(edges[0]), float(edges[-1]), _LEFT, _WIDTH - _RIGHT)
    y = _scale(0.0, float(counts.max()), _HEIGHT - _BOTTOM, _TOP)
    bars = []
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        kind = "bar low" if high <= threshold or low < threshold else "bar"
        box = f'x="{x(low):.1f}" y="{y(count):.1f}" width="{max(x(high) - x(low) - 1, 0.5):.1f}"'
        bars.append(f'<rect class="{kind}" {box} height="{y(0) - y(count):.1f}"/>')
    mark = f'<line class="mark" x1="{x(threshold):.1f}" x2="{x(threshold):.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
    ticks = _ticks(float(edges[0]), float(edges[-1]), x) + _side(float(counts.max()), y)
    return _frame("".join(bars) + mark + ticks, label)


def overlay_svg(
    values: Sequence[float] | NDArray[np.float64],
    other: Sequence[float] | NDArray[np.float64] | None,
    *,
    threshold: float | None,
    label: str,
    bins: int = 40,
) -> Markup:
    """The share of `values` in each bin as bars and, over the same bins, that of `other` as an outline; `threshold` is
    marked. The two may differ in number."""
    sides = [np.asarray(side, dtype=np.float64) for side in (values, other) if side is not None]
    edges = np.histogram_bin_edges(np.concatenate(sides), bins=bins)
    shares = [np.histogram(side, bins=edges)[0] / len(side) for side in sides]
    highest = float(max(share.max() for share in shares))
    x = _scale(float(edges[0]), float(edges[-1]), _LEFT, _WIDTH - _RIGHT)
    y = _scale(0.0, highest, _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<rect class="bar" x="{x(low):.1f}" y="{y(share):.1f}" width="{max(x(high) - x(low) - 1, 0.5):.1f}"'
        f' height="{y(0) - y(share):.1f}"/>'
        for share, low, high in zip(shares[0], edges[:-1], edges[1:], strict=True)
    ]
    for share in shares[1:]:
        corners = zip(edges.repeat(2), [0.0, *share.repeat(2), 0.0], strict=True)
        points = [f"{x(edge):.1f},{y(height):.1f}" for edge, height in corners]
        parts.append(f'<polyline class="outline" points="{" ".join(points)}"/>')
    if threshold is not None:
        place = f'x1="{x(threshold):.1f}" x2="{x(threshold):.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"'
        parts.append(f'<line class="mark" {place}/>')
    sides_text = "".join(
        f'<text class="tick" x="{_LEFT - 6}" y="{y(share) + 4:.1f}" text-anchor="end">{share:.0%}</text>'
        for share in (0.0, highest)
    )
    return _frame("".join(parts) + _ticks(float(edges[0]), float(edges[-1]), x) + sides_text, label)


def band_svg(mean: Sequence[float], deviation: Sequence[float], *, label: str) -> Markup:
    """A line over positions 1..n with a band of one standard deviation around it."""
    centre, spread = np.asarray(mean), np.asarray(deviation)
    low, high = float((centre - spread).min()), float((centre + spread).max())
    x = _scale(1.0, float(max(len(mean), 2)), _LEFT, _WIDTH - _RIGHT)
    y = _scale(low, high if high > low else low + 1.0, _HEIGHT - _BOTTOM, _TOP)
    upper = [f"{x(i + 1):.1f},{y(v):.1f}" for i, v in enumerate(centre + spread)]
    lower = [f"{x(i + 1):.1f},{y(v):.1f}" for i, v in enumerate(centre - spread)]
    line = " ".join(f"{x(i + 1):.1f},{y(v):.1f}" for i, v in enumerate(centre))
    band = f'<polygon class="band" points="{" ".join(upper + lower[::-1])}"/><polyline class="line" points="{line}"/>'
    sides = "".join(
        f'<text class="tick" x="{_LEFT - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v:.1f}</text>' for v in (low, high)
    )
    return _frame(band + _ticks(1.0, float(max(len(mean), 2)), x, integers=True) + sides, label)


def _scale(low: float, high: float, start: float, end: float) -> Axis:
    span = high - low or 1.0
    return lambda value: start + (float(value) - low) / span * (end - start)


def _ticks(low: float, high: float, x: Axis, integers: bool = False) -> str:
    values = np.linspace(low, high, 6)
    values = np.unique(values.round()) if integers else values
    digits, baseline = (0 if integers else 1), _HEIGHT - _BOTTOM + 16
    texts = [
        f'<text class="tick" x="{x(v):.1f}" y="{baseline}" text-anchor="middle">{v:.{digits}f}</text>' for v in values
    ]
    axis = f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_HEIGHT - _BOTTOM}" y2="{_HEIGHT - _BOTTOM}"/>'
    return axis + "".join(texts)


def _side(high: float, y: Axis) -> str:
    return "".join(
        f'<text class="tick" x="{_LEFT - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v:.0f}</text>' for v in (0.0, high)
    )


def _frame(inner: str, label: str) -> Markup:
    caption = escape(label)
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{caption}">{inner}'
        f'<text class="tick" x="{middle:.0f}" y="{_HEIGHT - 3}" text-anchor="middle">{caption}</text></svg>'
    )
