"""How numbers are written: one place for rounding, arrows and names of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minoritybench.records import MetricRecord, RunRecord

ARROWS = {"higher": "↑", "lower": "↓"}


def metric_table(record: RunRecord) -> str:
    """A run's metrics as aligned plain text, two decimals, with their intervals over seeds."""
    seeds = record.sampling.seeds or "given samples"
    head = f"{row_label(record)} on {record.benchmark}: n={record.sampling.n}, seeds {seeds}"
    width = max(len(metric.name) for metric in record.metrics)
    lines = [head, f"{'metric':<{width}}    {'mean':>8}  95 % interval over seeds"]
    for metric in record.metrics:
        lines.append(
            f"{metric.name:<{width}}  {ARROWS[metric.direction]} {metric.value:>8.2f}  {interval_text(metric)}"
        )
    if record.sampling.seeds:
        cost = f"{record.cost.seconds_per_sample * 1000:.2f} ms a sample, {record.cost.nfe} denoiser and "
        cost += f"{record.cost.encoder_passes} encoder passes each"
    else:
        cost = "what the samples cost is not known"
    lines.append(f"{cost}; record {record.id[:12]}")
    return "\n".join(lines)


def interval_text(metric: MetricRecord) -> str:
    """`[low, high]`, or a dash where one seed gives no interval."""
    if metric.ci_low is None or metric.ci_high is None:
        return "-"
    return f"[{metric.ci_low:.2f}, {metric.ci_high:.2f}]"


def row_label(record: RunRecord, defaults: Mapping[str, Any] | None = None) -> str:
    """The method, with the hyperparameters that differ from `defaults` (the benchmark's own, if given)."""
    shown = {} if defaults is None else {k: v for k, v in record.method.params.items() if defaults.get(k) != v}
    notes = [f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in shown.items()]
    if record.method.preset not in ("reference", "none"):
        notes.insert(0, f"preset={record.method.preset}")
    if record.sampling.class_conditional:
        notes.append("class-conditional")
    return record.method.name + (f" ({', '.join(notes)})" if notes else "")
