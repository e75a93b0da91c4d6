"""Cascade ranking: a cheap proxy on all images, the exact score only where an image may lie among the lowest.

Stages, each of shards with receipts of their own, so that a kill at any point costs the shards in flight:
`whiten` and `calibrate` score a seeded random sample exactly; `learn` takes the cheap features of that sample and
`sketch` those of all the others; then rounds `round-001`, `round-002`, ... score the most promising images exactly and
refit the proxy, until one round can take every image whose prediction, less the margin, reaches the threshold. What a
round scores is decided once and kept as a receipt too. A third of the calibration sample stays out of every fit and
says at the end what share of the lowest images the rule would have found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from minoritybench.cascade_shard import BLOCKS, SKETCH_FACTS, SketchPlan, sketch_shard
from minoritybench.engine.stage import run_stage
from minoritybench.microbatch import torch_threads
from minoritybench.rank_job import RankJob, crew
from minoritybench.rank_shard import FACTS, SHARD_SCHEMA, RankPlan, score_shard, shard_file
from minoritybench.references import keep_count
from minoritybench.rng import derived_seed
from minoritybench.scoring.cascade import (
    GIVE_UP,
    LEAST_MARGIN,
    calibration_size,
    margin_of,
    recall_interval,
    sketch_rows,
    threshold_so_far,
    whitened_probes,
)
from minoritybench.scoring.gaussian_process import fit_gaussian_process
from minoritybench.store import Receipts

SEED = 0
_WHITENING_IMAGES = 64
_FIT_POINTS = 1024
_LEAST_FIT = 20
_DECISION_FACTS = frozenset({"stop", "fallback", "images", "margin", "reach", "audit"})

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class CascadeResult:
    """What a cascade leaves: `table`, one row an image (columns of a score shard), what the stages report, the
    fractions of images and of Jacobian rows that were spent exactly, `report`, which goes into the recipe, and
    `shards`, the files of the images scored exactly, each with their features beside it."""

    table: pd.DataFrame
    failures: list[dict[str, str]]
    spectra: list[dict[str, Any]]
    seconds: float
    exact_fraction: float
    row_fraction: float
    report: dict[str, Any]
    shards: list[Path]


def run_cascade(job: RankJob, plan: RankPlan) -> CascadeResult:
    """Rank by cascade; the caller holds the folder's lock."""
    cascade = _Cascade(job, plan)
    with torch_threads(plan.threads):
        cascade.calibrate()
        cascade.search()
        return cascade.result()


class _Cascade:
    """The state of a cascade, rebuilt from the receipts of its stages: arrays over all images of the source."""

    def __init__(self, job: RankJob, plan: RankPlan) -> None:
        self.job, self.plan = job, plan
        self.where = {name: index for index, name in enumerate(job.source.ids)}
        total = len(self.where)
        size = calibration_size(total)
        self.drawn = np.random.default_rng(derived_seed(SEED, "cascade-calibration")).permutation(total)[:size]
        self.sample = np.zeros(total, dtype=bool)
        self.sample[self.drawn] = True
        self.audit = np.zeros(total, dtype=bool)  # held out: in no fit and in no margin
        self.audit[self.drawn[: size // 3]] = True
        self.scores = np.full(total, np.nan)
        self.readable = np.ones(total, dtype=bool)
        self.features: dict[str, NDArray[np.float32]] = {}
        self.probes = torch.zeros(0, 0, dtype=torch.float64)
        self.decisions: list[dict[str, Any]] = []
        self.scored_tables: list[pd.DataFrame] = []
        self.shards: list[Path] = []
        self.cheap_tables: list[pd.DataFrame] = []
        self.failures: dict[str, str] = {}
        self.spectra: list[dict[str, Any]] = []
        self.seconds = 0.0

    def calibrate(self) -> None:
        """Exact scores of the calibration sample, the probes from their mean `J J^T`, and the sample's features."""
        whitening = replace(self.plan, shard_size=_WHITENING_IMAGES, gram=True)
        self._score("whiten", np.sort(self.drawn[:_WHITENING_IMAGES]), whitening)
        self._score("calibrate", np.sort(self.drawn[_WHITENING_IMAGES:]), self.plan)
        gram = torch.from_numpy(np.load(shard_file(self.job.out, 0, "whiten").with_suffix(".npy")))
        if not gram.shape[0]:
            return  # not one of them could be scored: without probes there is no proxy
        self.probes = whitened_probes(gram, sketch_rows(gram.shape[0]), SEED)
        if self._left().size:
            self._sketch("learn", np.flatnonzero(self.sample))

    def search(self) -> None:
        """Decide and score, round by round, until nothing is left that may be low; or score everything."""
        receipts = Receipts(self.job.out, "decision", self.plan.token, _DECISION_FACTS)
        while self._left().size:
            number = len(self.decisions)
            if number == 1:
                self._sketch("sketch", np.flatnonzero(~self.sample))
            decision = receipts.read(number)
            if decision is None:
                decision = self._first_decision() if number == 0 else self._decision()
                receipts.write(number, [], decision)
            self.decisions.append(decision)
            if decision["fallback"] is not None:
                self._score("rest", self._left(), self.plan)
            if decision["stop"]:
                break
            self._score(f"round-{number:03d}", np.asarray(decision["images"], dtype=np.int64), self.plan)

    def result(self) -> CascadeResult:
        """The table of all images and what it cost."""
        scored = pd.concat(self.scored_tables, ignore_index=True)
        cheap = pd.concat(self.cheap_tables, ignore_index=True) if self.cheap_tables else scored.iloc[:0]
        rest = cheap[~cheap["id"].isin(set(scored["id"]) | set(self.failures))].copy()
        if len(rest):
            means = self._predicted()[0]
            rest["proxy"] = [means[self.where[name]] for name in rest["id"]]
        rest = rest.reindex(columns=SHARD_SCHEMA.names)
        table = pd.concat([part for part in (scored, rest) if len(part)] or [scored], ignore_index=True)
        exact = len(scored) / max(len(table), 1)
        rows, dim = self.probes.shape
        sketched = len(cheap) * rows / max(dim * len(table), 1)
        last = self.decisions[-1] if self.decisions else _end("the calibration sample is all there is")
        if len(scored) == len(table) and last["fallback"] is None:
            last = _end("the proxy is too weak here, every image might have been low")
        report = {
            "calibration": int(self.sample.sum()),
            "held_out": int(self.audit.sum()),
            "rows": rows,
            "margin": last["margin"],
            "fallback": last["fallback"],
            "exact_fraction": exact,
            "row_fraction": exact + sketched,
            "recall": None if last["fallback"] else last["audit"],
        }
        failures = [{"id": name, "error": self.failures[name]} for name in sorted(self.failures)]
        return CascadeResult(table, failures, self.spectra, self.seconds, exact, exact + sketched, report, self.shards)

    def _first_decision(self) -> dict[str, Any]:
        """From the calibration sample alone: is there any hope that the proxy saves something?

        The margin asked here is only the least one, for the fits to come know more than this one; a search that is
        begun in vain costs the sketch, a sixteenth of the rows at most.
        """
        if not self.probes.shape[1]:
            return _end("none of the images that the probes are to be taken from could be scored")
        if len(self._fit_points()) < _LEAST_FIT:
            return _end("too few calibration images could be scored")
        sample = np.flatnonzero(self.sample & np.isfinite(self.scores))
        means, deviations, margin = self._predicted(leave_one_out=True)
        threshold = np.quantile(self.scores[sample], min(1.0, self._keep() / len(self.scores)))
        reached = float(np.mean(means[sample] - LEAST_MARGIN * deviations[sample] <= threshold))
        spent = self.sample.mean()
        rows, dim = self.probes.shape
        expected = float(spent + (1 - spent) * (reached + rows / dim))
        reason = None
        if expected >= GIVE_UP:
            reason = f"the proxy is too weak here, it would take {expected:.0%} of the Jacobian rows"
        return {**_end(reason), "margin": margin, "stop": reason is not None}

    def _decision(self) -> dict[str, Any]:
        """The next images to score exactly: the most promising ones, or, in the last round, all that may be low."""
        if self.decisions[-1]["reach"] is not None:
            return self._verdict(self.decisions[-1])
        means, deviations, margin = self._predicted()
        reach = np.nan_to_num(means - margin * deviations, nan=-np.inf)
        left = self._left()
        candidates = left[(reach <= self._threshold())[left]]
        size = int(self.job.plan["encoder"]["micro_batch"])
        batch = math.ceil(max(self._keep() / 2, len(self.scores) / 25) / size) * size  # a part of one costs the whole
        last = candidates.size <= 1.5 * batch
        if not last:
            ordered = np.lexsort((candidates, np.nan_to_num(means, nan=-np.inf)[candidates]))
            candidates = np.sort(candidates[ordered[:batch]])
        decision = {**_end(None), "stop": False, "images": candidates.tolist(), "margin": margin}
        if last:
            held = np.flatnonzero(self.audit & self._featured() & np.isfinite(self.scores))
            decision["reach"] = {str(image): float(reach[image]) for image in held}
        return decision

    def _verdict(self, last: dict[str, Any]) -> dict[str, Any]:
        """The end, and what the held-out images say of it: how many of their low ones the last rule reached."""
        threshold = self._threshold()
        low = [image for image in map(int, last["reach"]) if self.scores[image] <= threshold]
        found = sum(last["reach"][str(image)] <= threshold for image in low)
        interval = recall_interval(found, len(low))
        audit = {
            "found": found,
            "of": len(low),
            "estimate": found / len(low) if low else None,
            "low": interval[0],
            "high": interval[1],
        }
        missed = len(low) - found
        rows, dim = self.probes.shape
        spent = float(np.isfinite(self.scores).sum() / self.readable.sum() + rows / dim)
        reason = None
        if missed:
            reason = f"the margin would have missed {missed} of {len(low)} low held-out images"
        elif spent >= GIVE_UP:
            reason = f"the proxy is too weak here, the search took {spent:.0%} of the Jacobian rows"
        return {**_end(reason), "margin": last["margin"], "audit": audit}

    def _left(self) -> Indices:
        """Images that could still be scored exactly."""
        return np.flatnonzero(np.isnan(self.scores) & self.readable)

    def _keep(self) -> int:
        """Images to be kept in all."""
        return keep_count(self.job.keep, int(self.readable.sum()))

    def _threshold(self) -> float:
        """The score that an image must not exceed to be kept, by what is known so far."""
        return threshold_so_far(self.scores[np.isfinite(self.scores)].tolist(), self._keep())

    def _fit_points(self) -> Indices:
        """The images that the proxy is fitted to, by score: of the random sample as many as a fit can hold, for the
        margin is theirs to say, and of the images found since what room is left for, thinned evenly."""
        usable = np.isfinite(self.scores) & ~self.audit & self._featured()
        drawn = self.drawn[usable[self.drawn]][:_FIT_POINTS]
        found = self._by_score(np.flatnonzero(usable & ~self.sample))
        chosen = np.linspace(0, len(found) - 1, min(len(found), _FIT_POINTS - len(drawn))).round().astype(np.int64)
        return self._by_score(np.concatenate([drawn, found[chosen]]))

    def _by_score(self, images: Indices) -> Indices:
        return images[np.lexsort((images, self.scores[images]))]

    def _featured(self) -> NDArray[np.bool_]:
        if not self.features:
            return np.zeros(len(self.scores), dtype=bool)
        return np.all([np.isfinite(block).all(axis=1) for block in self.features.values()], axis=0)

    def _blocks(self, images: Indices) -> list[torch.Tensor]:
        return [torch.from_numpy(self.features[name][images]) for name in BLOCKS]

    def _predicted(self, leave_one_out: bool = False) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Mean and standard deviation of each image's score by the proxy, NaN without features, and the margin."""
        points, featured = self._fit_points(), np.flatnonzero(self._featured())
        targets = torch.from_numpy(self.scores[points])
        proxy = fit_gaussian_process(self._blocks(points), targets)
        means, deviations = np.full(len(self.scores), np.nan), np.full(len(self.scores), np.nan)
        means[featured], deviations[featured] = (part.numpy() for part in proxy.predict(self._blocks(featured)))
        if leave_one_out:
            means[points], deviations[points] = (part.numpy() for part in proxy.leave_one_out(targets))
        return means, deviations, margin_of(proxy, targets, torch.from_numpy(self.sample[points]))

    def _score(self, stage: str, images: Indices, plan: RankPlan) -> None:
        """Score images exactly as a stage of its own."""
        plan = replace(plan, stage=stage, indices=tuple(images.tolist()))
        tables, facts = self._run(score_shard, plan, plan, FACTS, len(images))
        self.scored_tables += tables
        self.shards += [shard_file(self.job.out, shard, stage) for shard in range(len(tables))]
        self.spectra += [fact["spectrum"] for fact in facts]
        for table in tables:
            self.scores[[self.where[name] for name in table["id"]]] = table["score_deflated"]

    def _sketch(self, stage: str, images: Indices) -> None:
        """Take the features of images as a stage of its own."""
        plan = replace(self.plan, stage=stage, indices=tuple(images.tolist()))
        tables, _ = self._run(sketch_shard, SketchPlan(plan, self.probes), plan, SKETCH_FACTS, len(images))
        self.cheap_tables += [table.drop(columns=list(BLOCKS)) for table in tables]
        for table in tables:
            places = [self.where[name] for name in table["id"]]
            for name in BLOCKS if places else ():
                values = np.stack(table[name].to_list())
                block = self.features.setdefault(name, np.full((len(self.scores), values.shape[1]), np.nan, np.float32))
                block[places] = values

    def _run(
        self, worker: Any, work: Any, plan: RankPlan, needed: frozenset[str], images: int
    ) -> tuple[list[pd.DataFrame], list[dict[str, Any]]]:
        """Run a stage's shards; its tables and facts, with seconds and failures taken note of."""
        shards = -(-images // plan.shard_size)
        receipts = Receipts(self.job.out, plan.stage, plan.token, needed)
        facts = run_stage(worker, work, shards, receipts, label=plan.stage, **crew(self.job.request))
        for fact in facts:
            self.seconds += float(fact["seconds"])
            self.failures |= {failure["id"]: failure["error"] for failure in fact["failures"]}
        self.readable[[self.where[name] for name in self.failures]] = False
        return [
            pq.read_table(shard_file(self.job.out, shard, plan.stage)).to_pandas() for shard in range(shards)
        ], facts


def _end(reason: str | None) -> dict[str, Any]:
    """The end of a search; with a reason, all that is left is to be scored exactly."""
    return {"stop": True, "fallback": reason, "images": [], "margin": None, "reach": None, "audit": None}


def cascade_notes(report: dict[str, Any]) -> list[str]:
    """What a reader of a cascade's ranking must know, one line each, from its recipe's `estimator`."""
    if report["fallback"] is not None:
        return [f"cascade saved nothing, every image was scored exactly: {report['fallback']}"]
    notes = [
        f"cascade: {report['exact_fraction']:.1%} of the images scored exactly, {report['row_fraction']:.1%} of the"
        f" Jacobian rows; the margin is {report['margin']:.2f} predicted standard deviations",
        "cascade: only images up to the threshold of the set have a rank, for above it others without a score may lie"
        " between; whether the score follows kNN density was not computed, for that takes every score",
    ]
    recall = report["recall"]
    if recall is not None:
        notes.append(
            f"cascade: {recall['found']} of {recall['of']} low held-out images were found, so the recall lies in"
            f" [{recall['low']:.2f}, {recall['high']:.2f}] (95 % Clopper-Pearson); mean, deviation, histogram and"
            " confounders are of the images scored exactly, which lean to the low end"
        )
    return notes
