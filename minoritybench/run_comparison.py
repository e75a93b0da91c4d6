"""The difference of two runs in every metric that both have, with an interval where one can be had.

Means over images (JEPA-SCOREs, minority share, CLIPScore) are compared image by image where both runs drew from the
same noise; metrics of whole sets seed by seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minoritybench.errors import BadInputError
from minoritybench.measures import Arrays
from minoritybench.record_files import RECORD_NAME, record_file
from minoritybench.records import RunRecord, load_benchmark, load_record
from minoritybench.report.differences import MetricDifference, metric_difference
from minoritybench.report.paired import Difference, differences, paired
from minoritybench.report.table import row_label
from minoritybench.sidecars import PER_IMAGE_FILE, read_values
from minoritybench.store import sha256_file


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
    return (path / RECORD_NAME).is_file() or (path.suffix == ".json" and path.is_file())


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
    return RunComparison(
        benchmark=first.benchmark,
        a=_described(first),
        b=_described(second),
        paired=paired(first, second),
        metrics=[
            metric_difference(metric, theirs[metric.id], by_image.get(metric.id), first)
            for metric in first.metrics
            if metric.id in theirs
        ],
        apart=_apart(first, second),
    )


def _load(path: Path) -> tuple[RunRecord, Path]:
    file = record_file(path)
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
    """The same for people: a table, or one sentence where nothing compares, and why what is missing in it is."""
    lines = [f"A: {_told(found.a)}", f"B: {_told(found.b)}"]
    told = ["no metric of the two runs compares: none was measured with equal parameters in both"]
    lines += _table(found) if found.metrics else told
    lines += [f"not compared: {name}, {why}" for name, why in found.apart.items()]
    if found.metrics:
        lines.append("each interval is at 95 % alone; of twenty true zeros one is expected to fall outside")
    return "\n".join(lines)


def _table(found: RunComparison) -> list[str]:
    width = max(6, *(len(metric.name) for metric in found.metrics))
    lines = [f"{'metric':<{width}}  {'A':>9}  {'B':>9}  {'A - B':>9}  {'95 % interval':<20}  better"]
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
    return lines


def _told(side: dict[str, Any]) -> str:
    seeds = ", ".join(map(str, side["seeds"])) or "none, made elsewhere"
    return f"{side['method']}, n={side['n']}, seeds {seeds}, record {side['record'][:12]}"
