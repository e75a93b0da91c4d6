"""What rarity costs: the fall of the JEPA-SCORE against the distance to the reference set and against time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from minoritybench.records import BenchmarkSpec, MetricRecord, RunRecord
from minoritybench.report.differences import metric_difference
from minoritybench.report.paired import BASELINE, Values, differences
from minoritybench.report.plots import Interval, Point, scatter_svg
from minoritybench.report.tables import Row, Section, is_distance

SCORE = "JEPA-SCORE"
_PIXEL_BASELINE = "adm"


@dataclass(frozen=True)
class Plot:
    """A plot with what it says in words."""

    title: str
    note: str
    svg: Markup


def plain_method(benchmark: BenchmarkSpec) -> str:
    """The method that the others of a benchmark are set beside: sampling without guidance."""
    return _PIXEL_BASELINE if benchmark.text is None else BASELINE


def plots(benchmark: BenchmarkSpec, tables: Sequence[Section], values: Values | None) -> list[Plot]:
    """Both plots of a board, of its rows without class labels under its own guide and n; none where the plain method
    has no row or nothing stands beside it."""
    terms = (benchmark.guide, benchmark.n, False)
    rows = [
        row
        for table in tables
        for row in table.rows
        for record in [row.record]
        if (record.encoder.guide, record.sampling.n, record.sampling.class_conditional) == terms
    ]
    name = plain_method(benchmark)
    plain = next((row.record for row in rows if row.label == name), None)
    if plain is None or len(rows) < 2:
        return []
    found = [(row, _fall(row.record, plain, benchmark, values)) for row in rows]
    falls = [(row, fall) for row, fall in found if fall is not None]
    y_label = f"fall of {SCORE} below {name}, nats"
    distance = next((metric for metric in plain.metrics if is_distance(metric.name)), None)
    return [*([_distance_plot(falls, distance, y_label)] if distance else []), _cost_plot(falls, y_label)]


def _distance_plot(falls: Sequence[tuple[Row, Interval]], distance: MetricRecord, y_label: str) -> Plot:
    points = [
        Point(row.label, row.record.method.name, interval(metric), fall)
        for row, fall in falls
        for metric in row.record.metrics
        if metric.id == distance.id
    ]
    note = "Rarer upwards, nearer to the rare real images leftwards; lines are 95 % intervals."
    caption = f"{y_label}, against {distance.name}"
    svg = scatter_svg(points, x_label=f"{distance.name}, lower is nearer", y_label=y_label, caption=caption)
    return Plot("Rarity and distance", note, svg)


def _cost_plot(falls: Sequence[tuple[Row, Interval]], y_label: str) -> Plot:
    points = []
    for row, fall in falls:
        cost = row.record.cost.seconds_per_sample * 1000
        points.append(Point(row.label, row.record.method.name, (cost, cost, cost), fall))
    note = (
        "Times are those of the machine that made each record, which may have been another or busy: read them as orders"
        " of magnitude."
    )
    caption = f"{y_label}, against milliseconds a sample"
    return Plot(
        "Rarity and cost", note, scatter_svg(points, x_label="milliseconds a sample", y_label=y_label, caption=caption)
    )


def interval(metric: MetricRecord) -> Interval:
    """Ends of a metric's interval around its value, all equal where it has none."""
    low = metric.value if metric.ci_low is None else metric.ci_low
    return low, metric.value, metric.value if metric.ci_high is None else metric.ci_high


def _fall(record: RunRecord, plain: RunRecord, benchmark: BenchmarkSpec, values: Values | None) -> Interval | None:
    """How far the score lies below plain sampling's, with its interval."""
    if record is plain:
        return 0.0, 0.0, 0.0
    ours, theirs = record.metric(SCORE), plain.metric(SCORE)
    if ours is None or theirs is None or ours.id != theirs.id:
        return None
    pairs = {} if values is None else differences(record, plain, benchmark, values)
    found = metric_difference(ours, theirs, pairs.get(ours.id), record)
    if found.ci_low is None or found.ci_high is None:
        return -found.difference, -found.difference, -found.difference
    return -found.ci_high, -found.difference, -found.ci_low
