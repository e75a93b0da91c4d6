"""How numbers are written: one place for rounding, arrows and names of rows."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from minoritybench.records import MetricRecord, RunRecord

ARROWS = {"higher": "↑", "lower": "↓"}
LEVEL = "≈"
"""Not significantly different from the best of its column."""


def metric_table(record: RunRecord) -> str:
    """A run's metrics as aligned plain text, two decimals, with their intervals, the numbers of samples and real images
    behind each, and what a perfect generator is expected to reach at these numbers, where that is known."""
    seeds = record.sampling.seeds or "given samples"
    reference = record.reference_set
    head = f"{row_label(record)} on {record.benchmark}: n={record.sampling.n}, seeds {seeds}"
    head += f"; reference set {reference.name}, n={reference.n}"
    width = max(len(metric.name) for metric in record.metrics)
    lines = [head, f"{'metric':<{width}}    {'mean':>8}  {'95 % interval':<20}  {'samples/real':<14}  perfect"]
    for metric in record.metrics:
        ideal = "" if metric.ideal is None else f"{metric.ideal:.2f}"
        line = f"{metric.name:<{width}}  {ARROWS[metric.direction]} {metric.value:>8.2f}  {interval_text(metric):<20}"
        lines.append(f"{line}  {_numbers(metric):<14}  {ideal}".rstrip())
    lines.append(f"intervals: {interval_note(record)}")
    if record.sampling.seeds:
        cost = f"{record.cost.seconds_per_sample * 1000:.2f} ms a sample, {record.cost.nfe} denoiser and "
        cost += f"{record.cost.encoder_passes} encoder passes each"
    else:
        cost = "what the samples cost is not known"
    lines.append(f"{cost}; record {record.id[:12]}")
    return "\n".join(lines)


def _numbers(metric: MetricRecord) -> str:
    counts = [metric.params[name] for name in ("n_fake", "n_real") if name in metric.params]
    return "/".join(str(count) for count in counts)


def interval_note(record: RunRecord) -> str:
    """What the intervals of a record are, in a line."""
    return "; ".join(_interval_methods(record)) or "none, for one set of so few samples"


def _interval_methods(record: RunRecord) -> list[str]:
    """How the intervals of a record came about, each way once, with the metrics of all but the first."""
    ways: dict[str, list[str]] = {}
    for metric in record.metrics:
        if metric.ci_low is not None:
            ways.setdefault(metric.interval or "t over seeds", []).append(metric.name)
    if len(ways) < 2:
        return list(ways)
    return [f"{way} ({', '.join(names)})" for way, names in ways.items()]


def interval_text(metric: MetricRecord) -> str:
    """`[low, high]`, or a dash where there is none."""
    if metric.ci_low is None or metric.ci_high is None:
        return "-"
    return f"[{metric.ci_low:.2f}, {metric.ci_high:.2f}]"


def row_label(
    record: RunRecord, defaults: Mapping[str, Any] | None = None, chain: Mapping[str, Any] | None = None
) -> str:
    """The method, with the hyperparameters that differ from `defaults` (the benchmark's own, if given), and the
    settings of a text-to-image chain that differ from `chain`."""
    shown = {} if defaults is None else {k: v for k, v in record.method.params.items() if defaults.get(k) != v}
    shown |= {} if chain is None else {k: v for k, v in record.sampling.text.items() if chain.get(k, v) != v}
    notes = [f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in shown.items()]
    if record.method.preset not in ("reference", "none"):
        notes.insert(0, f"preset={record.method.preset}")
    if record.sampling.class_conditional:
        notes.append("class-conditional")
    return record.method.name + (f" ({', '.join(notes)})" if notes else "")


def table_row(cells: Sequence[str]) -> str:
    """One row of a markdown table."""
    return "| " + " | ".join(cells) + " |"


def escaped(text: str) -> str:
    """A submitted text as a table cell shows it, letter by letter: no tag, no link, no further cell."""
    return " ".join(html.escape(text, quote=False).replace("|", "\\|").replace("[", "\\[").replace("`", "'").split())
