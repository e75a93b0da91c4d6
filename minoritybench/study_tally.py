"""Counting a preference study: shares with intervals, and how far the raters agree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from minoritybench.errors import BadInputError, counted
from minoritybench.metrics.uncertainty import clustered_variance, cut, half_width
from minoritybench.records import validated
from minoritybench.store import read_json
from minoritybench.study import Side, StudyKey

WILSON = "Wilson score interval over answers, taken as independent"
CLUSTERED = (
    "with raters and pairs as clusters, t (Liang and Zeger 1986), or Wilson over pairs where they show no spread"
)
ALPHA = "Krippendorff's alpha, nominal (Krippendorff 2011)"


File = TypeVar("File", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Answer(_Strict):
    """Which side of a pair a rater chose."""

    pair: int
    question: str
    choice: Side


class Answers(_Strict):
    """A file that the page saved."""

    kind: Literal["minoritybench study answers"]
    study: str
    rater: str = Field(min_length=1)
    answers: list[Answer]


@dataclass(frozen=True)
class Vote:
    """One answer with the key applied: which image pair (seed, index), who, and whether A was preferred."""

    question: str
    item: tuple[int, int]
    rater: str
    for_a: bool


def tally(files: Sequence[Path], keys: Sequence[Path]) -> dict[str, Any]:
    """`methods` A and B, `raters`, and for each question `answers` of `possible`, `preferred` and `agreement`. What is
    preferred are the shares of A and B in `[0, 1]`, with the Wilson interval of A's and its `clustered_interval`.

    Pages of several orders of one pair of runs have a key each and are counted together. Errors (exit 2): files that
    are no answers or keys, answers without their key, to pairs or questions the page does not have, the same question
    answered twice, one rater in two files, and keys of different runs.
    """
    known = _keys(keys)
    first = next(iter(known.values()))
    read = [_read(Answers, file, "answers that the study page saved") for file in files]
    votes: list[Vote] = []
    places: dict[str, Path] = {}
    for file, answers in zip(files, read, strict=True):
        if answers.rater in places:
            raise BadInputError(f"{file}: rater {answers.rater!r} has answered in {places[answers.rater]} already")
        if answers.study not in known:
            raise BadInputError(f"{file}: answers to study {answers.study}, whose key is not among --key")
        places[answers.rater] = file
        votes += _votes(file, answers, known[answers.study])
    possible = sum(len(known[answers.study].pairs) for answers in read)
    return {
        "methods": dict(first.methods),
        "raters": len(read),
        "questions": {
            name: _question(text, [vote for vote in votes if vote.question == name], possible)
            for name, text in first.questions.items()
        },
    }


def _read(model: type[File], path: Path, what: str) -> File:
    document = read_json(path)
    if not isinstance(document, dict) or "study" not in document:
        raise BadInputError(f"{path} does not hold {what}")
    return validated(model, document, str(path))


def _keys(paths: Sequence[Path]) -> dict[str, StudyKey]:
    keys = [_read(StudyKey, path, "a key that `study build` wrote") for path in paths]
    for path, key in zip(paths, keys, strict=True):
        if (key.methods, key.questions) != (keys[0].methods, keys[0].questions):
            raise BadInputError(f"{path} is the key of other runs or questions than {paths[0]}; count them apart")
    return {key.study: key for key in keys}


def _votes(file: Path, answers: Answers, key: StudyKey) -> list[Vote]:
    pairs = {pair.pair: pair for pair in key.pairs}
    seen: set[tuple[int, str]] = set()
    votes = []
    for answer in answers.answers:
        if answer.pair not in pairs or answer.question not in key.questions:
            raise BadInputError(f"{file}: the page has no pair {answer.pair} with a question {answer.question!r}")
        if (answer.pair, answer.question) in seen:
            raise BadInputError(f"{file}: pair {answer.pair}, {answer.question}, is answered twice")
        seen.add((answer.pair, answer.question))
        pair = pairs[answer.pair]
        for_a = (answer.choice == "left") == (pair.left == "A")
        votes.append(Vote(answer.question, (pair.seed, pair.index), answers.rater, for_a))
    return votes


def _question(text: str, votes: Sequence[Vote], possible: int) -> dict[str, Any]:
    found: dict[str, Any] = {"text": text, "answers": len(votes), "possible": possible, "preferred": None}
    if votes:
        count = sum(vote.for_a for vote in votes)
        low, high = wilson_interval(count, len(votes))
        found["preferred"] = {
            "A": count / len(votes),
            "B": 1 - count / len(votes),
            "A_wilson": [low, high],
            "A_clustered": list(clustered_interval(votes)),
        }
    found["agreement"] = {"name": ALPHA, "value": krippendorff_alpha((vote.item, vote.for_a) for vote in votes)}
    return found


def clustered_interval(votes: Sequence[Vote]) -> tuple[float, float]:
    """95 % interval of the share of A, for answers of one rater are alike and so are those about one pair.

    Raters and pairs are both samples, of other raters and of other pairs: the variances of the share with either as
    clusters are added, which counts what one answer varies by twice and is never too small for that. Where raters agree
    entirely it is the t-interval over pairs, where each always chooses one side that over raters. Of one rater it
    speaks for other pairs only, of one pair for other raters only. Where neither shows any spread, as when all answers
    are equal, there is nothing to estimate it from: then it is Wilson's, with all answers about a pair counted as one.
    """
    total, count = len(votes), sum(vote.for_a for vote in votes)
    deviations = np.array([total * vote.for_a - count for vote in votes])  # in whole numbers, so that 0 is 0
    clusters = ([vote.rater for vote in votes], [str(vote.item) for vote in votes])
    found = [clustered_variance(deviations, units) for units in clusters]
    half = half_width([one for one in found if one is not None]) / total
    if half == 0:
        pairs = len({vote.item for vote in votes})
        return wilson_interval(count * pairs / total, pairs)
    return cut((count / total - half, count / total + half), (0.0, 1.0))


def wilson_interval(count: float, total: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a share `count / total`. Reference: Wilson 1927. It holds for independent answers only."""
    from scipy.stats import norm

    z = float(norm.ppf((1 + level) / 2))
    share, spread = count / total, z * z / total
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * (share * (1 - share) / total + spread / (4 * total)) ** 0.5
    return cut((centre - half, centre + half), (0.0, 1.0))


def krippendorff_alpha(ratings: Iterable[tuple[Hashable, Hashable]]) -> float | None:
    """Agreement over `(item, value)` ratings of nominal values: 1 where all agree, 0 as by chance; items may have
    different numbers of ratings, and those with one are left out. None where all ratings are equal, or none is paired.

    Reference: Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section C: with coincidences o_ck, each
    item's ordered pairs of ratings divided by its number of ratings less one, and their margins n_c,
    `alpha = 1 - (n - 1) sum_{c != k} o_ck / sum_{c != k} n_c n_k`.
    """
    items: dict[Hashable, list[Hashable]] = defaultdict(list)
    for item, value in ratings:
        items[item].append(value)
    observed, totals = 0.0, defaultdict[Hashable, int](int)
    for values in items.values():
        if len(values) < 2:
            continue
        for value in values:
            totals[value] += 1
            observed += sum(other != value for other in values) / (len(values) - 1)
    n = sum(totals.values())
    expected = n * n - sum(count * count for count in totals.values())
    return 1 - (n - 1) * observed / expected if expected else None


def tally_text(facts: dict[str, Any]) -> str:
    """The same for people, percentages as in Table 7 of arXiv:2605.24631."""
    methods = facts["methods"]
    lines = [f"A: {methods['A']}", f"B: {methods['B']}", counted(facts["raters"], "rater")]
    for name, question in facts["questions"].items():
        lines += ["", f"{name}: {question['answers']} answers of {question['possible']}"]
        preferred, alpha = question["preferred"], question["agreement"]["value"]
        if preferred is None:
            continue
        lines += [
            f"  prefer A  {preferred['A']:6.1%}  95 % {_range(preferred['A_wilson'])} {WILSON}",
            f"  {'':<17}  95 % {_range(preferred['A_clustered'])} {CLUSTERED}",
            f"  prefer B  {preferred['B']:6.1%}",
            f"  agreement {'undefined' if alpha is None else format(alpha, '.3f')}, {ALPHA}",
        ]
    return "\n".join(lines)


def _range(interval: list[float]) -> str:
    return f"[{interval[0]:.1%}, {interval[1]:.1%}]"
