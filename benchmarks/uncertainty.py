"""How often intervals of one sample set hold what they claim to: delete-group jackknife and i.i.d. bootstrap.

A generator is a Gaussian, its reference one fixed draw. The truth is the mean of a metric over fresh sample sets of
the same size; each repetition draws one set, makes both 95 % intervals from it and looks whether they hold the truth.
Prints the table of docs/uncertainty.md and, with `--figure`, writes its picture.

    python benchmarks/uncertainty.py --figure docs/uncertainty.svg
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from minoritybench.metrics import FeatureMoments, MetricValue, frechet_distance, manifold_metrics
from minoritybench.metrics.uncertainty import jackknife

Array = NDArray[np.float64]
LEVEL = 0.95


@dataclass(frozen=True)
class Study:
    """A metric of sample sets of `n` points in `width` dimensions."""

    name: str
    metric: Callable[[NDArray[Any]], MetricValue]
    n: int
    width: int

    def draw(self, rng: np.random.Generator) -> Array:
        """A fresh sample set: wider than the reference and off its centre."""
        return 1.1 * rng.normal(size=(self.n, self.width)) + 0.1


@dataclass(frozen=True)
class Finding:
    """`truth` and `spread`, mean and standard deviation over fresh sets; for each kind of interval its share of hits
    and its mean ends; `resampled`, the mean value of bootstrap draws."""

    name: str
    n: int
    width: int
    truth: float
    spread: float
    hits: dict[str, float]
    ends: dict[str, tuple[float, float]]
    resampled: float


def studies(n_frechet: int = 500, n_manifold: int = 200, width: int = 8) -> list[Study]:
    """Frechet distance to a reference of 2,000, the manifold metrics (k = 5) to one of as many points as samples."""
    rng = np.random.default_rng(0)
    moments = FeatureMoments.of(rng.normal(size=(2000, width)))
    reference = rng.normal(size=(n_manifold, width))

    def manifold(name: str) -> Callable[[NDArray[Any]], MetricValue]:
        return lambda fake: manifold_metrics(real=reference, fake=fake)[name]

    names = ("precision", "recall", "density", "coverage")
    first = Study("FD", lambda fake: frechet_distance(real=moments, fake=fake), n_frechet, width)
    return [first, *(Study(name, manifold(name), n_manifold, width) for name in names)]


def examine(study: Study, fresh: int, repetitions: int, bootstraps: int, resamples: int) -> Finding:
    """Simulate one study; only the first `bootstraps` repetitions are resampled, which costs most."""
    rng = np.random.default_rng(1)
    values = [study.metric(study.draw(rng)).value for _ in range(fresh)]
    truth = float(np.mean(values))
    intervals: dict[str, list[tuple[float, float]]] = {"jackknife": [], "bootstrap": []}
    resampled = []
    for repetition in range(repetitions):
        fake = study.draw(rng)
        found = jackknife(study.metric, fake, seed=repetition)
        assert found.ci_low is not None
        assert found.ci_high is not None
        intervals["jackknife"].append((found.ci_low, found.ci_high))
        if repetition >= bootstraps:
            continue
        again = [study.metric(fake[rng.integers(study.n, size=study.n)]).value for _ in range(resamples)]
        resampled.append(float(np.mean(again)))
        low, high = np.quantile(again, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        intervals["bootstrap"].append((float(low), float(high)))
    hits = {kind: float(np.mean([low <= truth <= high for low, high in ends])) for kind, ends in intervals.items()}
    means = {kind: tuple(float(end) for end in np.mean(ends, axis=0)) for kind, ends in intervals.items()}
    return Finding(
        *(study.name, study.n, study.width, truth, float(np.std(values, ddof=1)), hits),
        ends={kind: (low, high) for kind, (low, high) in means.items()},
        resampled=float(np.mean(resampled)),
    )


_ROW, _TOP, _LEFT, _RIGHT, _WIDE = 62, 58, 96, 150, 860
_COLOURS = {"fresh sets": "#6b7280", "jackknife": "#0f766e", "bootstrap": "#c2410c"}


def figure(findings: Sequence[Finding]) -> str:
    """SVG: for each metric the mean interval of either kind, in standard deviations of fresh sets from their mean."""
    scaled = {
        finding.name: {
            "fresh sets": (-1.96, 1.96),
            **{
                kind: tuple((end - finding.truth) / finding.spread for end in ends)
                for kind, ends in finding.ends.items()
            },
        }
        for finding in findings
    }
    reach = [end for bars in scaled.values() for ends in bars.values() for end in ends]
    low, high = np.floor(min(reach)) - 0.5, np.ceil(max(reach)) + 0.5
    height = _TOP + _ROW * len(findings) + 46

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDE - _LEFT - _RIGHT)

    parts = [_text(_WIDE - _RIGHT + 12, _TOP - 14, "holds the mean", "start", "#111827")]
    for place, (kind, colour) in enumerate(_COLOURS.items()):
        at = _LEFT + 190 * place
        parts.append(f'<rect x="{at}" y="16" width="22" height="8" rx="2" fill="{colour}"/>')
        parts.append(
            _text(at + 28, 25, {"fresh sets": "95 % of fresh sets"}.get(kind, f"{kind} interval"), "start", "#111827")
        )
    bottom = _TOP + _ROW * len(findings)
    for tick in np.arange(np.ceil(low), high, 2 if high - low > 14 else 1):
        parts.append(f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{_TOP - 6}" y2="{bottom}" stroke="#e5e7eb"/>')
        parts.append(_text(x(tick), bottom + 18, f"{tick:+.0f}" if tick else "0", "middle", "#374151"))
    parts.append(f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{_TOP - 6}" y2="{bottom}" stroke="#111827"/>')
    for row, finding in enumerate(findings):
        top = _TOP + _ROW * row
        parts.append(_text(_LEFT - 12, top + 29, finding.name, "end", "#111827"))
        for place, (kind, (start, stop)) in enumerate(scaled[finding.name].items()):
            y, colour = top + 6 + 15 * place, _COLOURS[kind]
            parts.append(
                f'<rect x="{x(start):.1f}" y="{y}" width="{x(stop) - x(start):.1f}" height="9" rx="2" fill="{colour}"/>'
            )
            if kind in finding.hits:
                said = f"{kind} {100 * finding.hits[kind]:.0f} %"
                parts.append(_text(_WIDE - _RIGHT + 12, y + 9, said, "start", colour))
    middle = (_LEFT + _WIDE - _RIGHT) / 2
    label = "standard deviations of fresh sample sets, from their mean"
    parts.append(_text(middle, bottom + 38, label, "middle", "#111827"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {height}" width="{_WIDE}" height="{height}"'
        f' font-family="sans-serif" font-size="13" role="img" aria-label="Mean 95 % intervals">'
        f'<rect width="{_WIDE}" height="{height}" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def _text(x: float, y: float, said: str, anchor: str, colour: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{said}</text>'


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--fresh", type=int, default=2000)
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--bootstraps", type=int, default=100)
    parser.add_argument("--resamples", type=int, default=100)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # of the empty balls that duplicates make, which are the point
    print("| metric | n | mean of fresh sets | SD | of bootstrap draws | jackknife holds | bootstrap holds |")
    print("|---|---|---|---|---|---|---|")
    findings = []
    for study in studies():
        found = examine(study, options.fresh, options.repetitions, options.bootstraps, options.resamples)
        findings.append(found)
        cells = [f"{value:.3f}" for value in (found.truth, found.spread, found.resampled)]
        shares = [f"{found.hits[kind]:.3f}" for kind in ("jackknife", "bootstrap")]
        print(f"| {found.name} | {found.n} | {' | '.join(cells + shares)} |", flush=True)
    if options.figure:
        options.figure.write_text(figure(findings), encoding="utf-8")


if __name__ == "__main__":
    main()
