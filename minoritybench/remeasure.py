"""Run a filed record's measurement again, here, and compare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minoritybench.badges import Badge, Granted
from minoritybench.embedded.weights import SHIPPED_GENERATORS, shipped_digest
from minoritybench.errors import CheckFailedError
from minoritybench.evaluation import evaluate
from minoritybench.measures import recorded_plans
from minoritybench.provenance import utc_now
from minoritybench.records import RunRecord, TextSpec, Tolerance, ToolRecord, load_benchmark
from minoritybench.references import load_reference_set

_FRACTIONS = frozenset({"precision", "recall", "density", "coverage", "rarity valid share", "minority share"})
_PERCENTAGES = frozenset({"AuthPct"})


@dataclass(frozen=True)
class Drift:
    """A metric of one seed as recorded and as measured again, NaN where it is gone, and how far they may differ."""

    metric: str
    seed: int
    recorded: float
    measured: float
    allowed: float

    @property
    def fraction(self) -> float:
        """The difference as a fraction of what is allowed; inf where the metric is gone."""
        difference = abs(self.measured - self.recorded)
        if difference == 0:
            return 0.0
        return difference / self.allowed if difference < math.inf and self.allowed > 0 else math.inf

    @property
    def fits(self) -> bool:
        """Whether the difference is allowed."""
        return self.fraction <= 1


def measure_again(record: RunRecord, seeds: Sequence[int], out: Path) -> RunRecord:
    """The record that the present code makes of some seeds of a filed one, with its method, settings, labels, guide,
    generator, chain and embedded judges. Errors: those of `evaluate`."""
    text = record.sampling.text
    return evaluate(
        record.method.name,
        benchmark=record.benchmark,
        n=record.sampling.n,
        seeds=tuple(seeds),
        settings={**record.method.params, "preset": record.method.preset},
        class_conditional=record.sampling.class_conditional,
        guide=record.encoder.guide,
        judges=tuple(name for name in record.encoder.judges if shipped_digest(name) is not None),
        generator=record.generator.name,
        prompts=text.get("prompts"),
        chain={key: text[key] for key in TextSpec.model_fields if key in text and key != "prompts"},
        out=out,
    )


def is_embedded(record: RunRecord) -> bool:
    """Whether a record can be measured again wherever the package is: its generator and its guide are part of it."""
    return record.generator.name in SHIPPED_GENERATORS and shipped_digest(record.encoder.guide) is not None


def drifts(record: RunRecord, again: RunRecord, seed: int) -> list[Drift]:
    """Every metric of a record on one seed, recorded against measured again."""
    benchmark = load_benchmark(record.benchmark)
    plans = recorded_plans(record, benchmark, load_reference_set(benchmark.reference_set))
    means = frozenset(plan.name for plan in plans if plan.by_image)
    now = {metric.id: metric.per_seed[str(seed)] for metric in again.metrics}
    rows = []
    for metric in record.metrics:
        value = metric.per_seed[str(seed)]
        allowed = _allowed(metric.name, value, record.tolerance, means)
        rows.append(Drift(metric.name, seed, value, now.get(metric.id, math.nan), allowed))
    return rows


def _allowed(name: str, value: float, tolerance: Tolerance, means: frozenset[str]) -> float:
    """How far a metric may drift between machines, by its kind (see `Tolerance`); `means` are those over images."""
    if name in _FRACTIONS:  # first: a share of images is a mean over images, too
        return tolerance.fraction
    if name in _PERCENTAGES:
        return 100 * tolerance.fraction
    return tolerance.score_nats if name in means else tolerance.fd_relative * abs(value)


def clean_commit(tool: ToolRecord) -> str:
    """The commit that a badge names as the one that measured. Errors: there is none, or the tree differs (exit 1)."""
    if tool.commit is None or tool.dirty is not False:
        raise CheckFailedError("no badge from a dirty tree or outside a git checkout: commit first, then measure again")
    return tool.commit


def earned_badge(record: RunRecord, again: RunRecord, badge: Granted, by: str) -> Badge:
    """The badge that a record earns by `again`, made of some of its seeds by `measure_again`. Errors: a metric differs
    beyond its tolerance, or the tree was dirty (exit 1)."""
    commit = clean_commit(again.minoritybench)
    rows = [row for seed in again.sampling.seeds for row in drifts(record, again, seed)]
    worst = max(rows, key=lambda row: row.fraction)
    if not worst.fits:
        raise CheckFailedError(f"no badge: {worst.metric} of seed {worst.seed} differs beyond its tolerance")
    return Badge(
        record=record.id,
        badge=badge,
        by=by,
        on=utc_now()[:10],
        commit=commit,
        device=again.environment.device,
        seeds=sorted(again.sampling.seeds),
        n=again.sampling.n,
        largest_drift=worst.fraction,
        metric=worst.metric,
    )
