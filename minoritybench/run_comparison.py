"""The difference of two runs in every metric that both have, with an interval where one can be had.

Means over images (JEPA-SCOREs, minority share, CLIPScore) are compared image by image where both runs drew from the
same noise; metrics of whole sets seed by seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minoritybench.errors import BadInputError
from minoritybench.measures import Arrays
from minoritybench.metrics.value import t_interval
from minoritybench.records import MetricRecord, RunRecord, load_benchmark, load_record
from minoritybench.report.paired import Difference, differences, paired
from minoritybench.report.table import row_label
from minoritybench.sidecars import PER_IMAGE_FILE, read_values
from minoritybench.store import sha256_file

RECORD_FILE = "record.json"
BY_IMAGE = "paired images, t"
BY_PROMPT = "paired images, t with prompts as clusters"
BY_SEED = "differences by seed, t"
WELCH = "other seeds, Welch's t over seeds"
NONE = "no interval: one set a side"


@dataclass(frozen=True)
class MetricDifference:
    """`difference` is A less B, with its 95 % interval and how that came about; `better` is the side that the interval
    favours, None where it holds 0 or is not known."""

    id: str
    name: str
    direction: str
    a: float
    b: float
    difference: float
    ci_low: float | None
    ci_high: float | None
    interval: str
    better: str | None


@dataclass(frozen=True)
class RunComparison:
    """Two runs of one benchmark: `metrics` that both have with equal ids, `apart` says why the others are left out."""

    benchmark: str
    a: dict[str, Any]
    b: dict[str, Any]
    paired: bool
    metrics: list[MetricDifference]
    apart: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"kind": "runs", **asdict(self)}


def is_run(name: str | Path) -> bool:
    """Whether this is an output of `evaluate`, the folder of a filed record, or a record file."""
    path = Path(name)
    return (path / RECORD_FILE).is_file() or (path.suffix == ".json" and path.is_file())


def compare_runs(a: str | Path, b: str | Path) -> RunComparison:
    """Compare two runs: folders of `evaluate`, filed records, or record files. Errors (exit 2): unreadable records or
    tables of images, and runs on different benchmarks."""
    (first, at), (second, there) = _load(Path(a)), _load(Path(b))
    if first.benchmark != second.benchmark:
        raise BadInputError(
            f"{a} is a run on {first.benchmark}, {b} on {second.benchmark}: their metrics do not compare"
        )
    by_image = _by_image(first, at, second, there)
    theirs = {metric.id: metric for metric in second.metrics}
    told = BY_PROMPT if first.sampling.text else BY_IMAGE
    return RunComparison(
        benchmark=first.benchmark,
        a=_described(first),
        b=_described(second),
        paired=paired(first, second),
        metrics=[
            _difference(metric, theirs[metric.id], by_image.get(metric.id), told)
            for metric in first.metrics
            if metric.id in theirs
        ],
        apart=_apart(first, second),
    )


def _load(path: Path) -> tuple[RunRecord, Path]:
    file = path / RECORD_FILE if path.is_dir() else path
    return load_record(file), file.parent


def _described(record: RunRecord) -> dict[str, Any]:
    sampling = record.sampling
    return {"record": record.id, "method": row_label(record), "n": sampling.n, "seeds": sampling.seeds}


def _by_image(first: RunRecord, at: Path, second: RunRecord, there: Path) -> Mapping[str, Difference]:
    """Differences over pairs of images, by metric id; none where a table of images is not beside its record."""
    tables = {id(record): folder / PER_IMAGE_FILE for record, folder in ((first, at), (second, there))}
    if not all(path.is_file() for path in tables.values()):
        return {}
    for record in (first, second):
        _check_listed(record, tables[id(record)])
    benchmark = load_benchmark(first.benchmark)

    def values(record: RunRecord) -> Mapping[str, Arrays]:
        return read_values(record, benchmark, tables[id(record)])

    return differences(first, second, benchmark, values)


def _check_listed(record: RunRecord, table: Path) -> None:
    listed = {artifact.path: artifact.sha256 for artifact in record.artifacts}
    if sha256_file(table) != listed.get(table.name):
        raise BadInputError(f"{table} is not the file its record lists; evaluate again, or move it away")


def _difference(ours: MetricRecord, theirs: MetricRecord, by_image: Difference | None, told: str) -> MetricDifference:
    if by_image is None:
        (difference, low, high), told = _over_seeds(ours, theirs)
    else:
        difference, low, high = by_image
    better = None
    if low is not None and high is not None and (low > 0 or high < 0):
        better = "A" if (low > 0) == (ours.direction == "higher") else "B"
    values = (ours.value, theirs.value, difference, low, high)
    return MetricDifference(ours.id, ours.name, ours.direction, *values, told, better)


def _over_seeds(ours: MetricRecord, theirs: MetricRecord) -> tuple[Difference, str]:
    """By seed where the seeds are the same, else between two independent groups of seeds."""
    if ours.per_seed.keys() == theirs.per_seed.keys() and len(ours.per_seed) > 1:
        return t_interval([ours.per_seed[seed] - theirs.per_seed[seed] for seed in ours.per_seed]), BY_SEED
    if min(len(ours.per_seed), len(theirs.per_seed)) < 2:
        return (ours.value - theirs.value, None, None), NONE
    return welch_difference(list(ours.per_seed.values()), list(theirs.per_seed.values())), WELCH


def welch_difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Difference of the means of two independent groups, two values or more in each, with a 95 % interval that lets
    their variances differ. Reference: Welch 1947."""
    from scipy.stats import t

    difference = float(np.mean(ours) - np.mean(theirs))
    parts = [(float(np.var(side, ddof=1)) / len(side), len(side) - 1) for side in (ours, theirs)]
    squared = sum(part for part, _ in parts)
    if squared == 0:
        return difference, difference, difference
    freedom = squared**2 / sum(part**2 / degrees for part, degrees in parts)
    half = float(t.ppf(0.975, freedom)) * squared**0.5
    return difference, difference - half, difference + half


def _apart(first: RunRecord, second: RunRecord) -> dict[str, str]:
    """Metrics that only one run has, or that depend on something in which the two differ."""
    said = {}
    for metric in first.metrics:
        other = second.metric(metric.name)
        if other is None:
            said[metric.name] = "only in A"
        elif other.id != metric.id:
            names = [
                key for key in {**metric.params, **other.params} if metric.params.get(key) != other.params.get(key)
            ]
            said[metric.name] = f"differs in {', '.join(names)}"
    return said | {metric.name: "only in B" for metric in second.metrics if first.metric(metric.name) is None}


def comparison_text(found: RunComparison) -> str:
    """The same for people, as a table."""
    width = max([len(metric.name) for metric in found.metrics], default=6)
    lines = [
        f"A: {_told(found.a)}",
        f"B: {_told(found.b)}",
        f"{'metric':<{width}}  {'A':>9}  {'B':>9}  {'A - B':>9}  {'95 % interval':<20}  better",
    ]
    for one in found.metrics:
        known = one.ci_low is not None and one.ci_high is not None
        interval = f"[{one.ci_low:+.3f}, {one.ci_high:+.3f}]" if known else "-"
        numbers = f"{one.a:>9.3f}  {one.b:>9.3f}  {one.difference:>+9.3f}  {interval:<20}"
        lines.append(f"{one.name:<{width}}  {numbers}  {one.better or ''}".rstrip())
    ways: dict[str, list[str]] = {}
    for one in found.metrics:
        ways.setdefault(one.interval, []).append(one.name)
    lines += [f"{way}: {', '.join(names)}" for way, names in ways.items()]
    if not found.paired:
        lines.append(
            "the images are no pairs: seeds, n, prompts, classes or generator differ, or they were made elsewhere"
        )
    lines += [f"not compared: {name}, {why}" for name, why in found.apart.items()]
    lines.append("each interval is at 95 % alone; of twenty true zeros one is expected to fall outside")
    return "\n".join(lines)


def _told(side: dict[str, Any]) -> str:
    seeds = ", ".join(map(str, side["seeds"])) or "none, made elsewhere"
    return f"{side['method']}, n={side['n']}, seeds {seeds}, record {side['record'][:12]}"
