"""A preference study: a page of blinded pairs of images, and the key that says which side was whose.

Reference: arXiv:2605.24631, Appendix D.1: pairs with the same prompt and seed in random order, two questions a pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from minoritybench.data.prompts import load_prompts
from minoritybench.errors import BadInputError, counted
from minoritybench.report.drawn import DrawnRun, image_at, labels_of, load_run, refuse_unlike
from minoritybench.report.pages import refuse_other_file, render
from minoritybench.report.pictures import data_uri
from minoritybench.rng import derived_seed
from minoritybench.store import digest_of, pretty_json, read_json, sha256_bytes, write_text

COMMAND = "study build"
ANSWERS_KIND = "minoritybench study answers"
Side = Literal["left", "right"]
Place = tuple[int, int]
"""Seed and index of an image."""
_LARGEST, _SMALL = 512, 128
"""Pixels: larger images are shrunk, smaller ones enlarged by whole pixels."""

ALIGNMENT = "Which image fits the text better and looks better? Judge how well it follows the text and how clean it is."
QUALITY = "Which image looks better? Judge how clean and faithful it is."
ATYPICALITY = "Which image is the more unusual one? Judge what it shows, how distinct its content is, not its flaws."


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class KeyPair(_Strict):
    """Pair number `pair` of a page, and which run stood on the left."""

    pair: int
    seed: int
    index: int
    left: Literal["A", "B"]


class StudyKey(_Strict):
    """What the page does not tell. `study` is the digest of what the page shows, so that answers find their key;
    `identical` counts the pairs that were left out because both runs drew the same image."""

    kind: Literal["minoritybench study key"] = "minoritybench study key"
    study: str
    order_seed: int
    methods: dict[Literal["A", "B"], str]
    questions: dict[str, str]
    identical: int
    pairs: list[KeyPair]


@dataclass(frozen=True)
class _Pair:
    place: Place
    left: Literal["A", "B"]
    uris: tuple[str, str]
    longest_side: int
    prompt: str | None


def build_study(
    folders: tuple[Path, Path],
    out: Path,
    key: Path,
    *,
    prompts: str | None = None,
    pairs: int = 30,
    order_seed: int = 0,
) -> StudyKey:
    """Write the page `out` and its `key`: `pairs` pairs, chosen, ordered and laid left and right by `order_seed`.

    Errors (exit 2): folders that cannot be paired or show the same image everywhere, prompts that do not fit, fewer
    pairs than asked for, a file in the place of page or key that is none, and a key of another study.
    """
    refuse_other_file(out, COMMAND)
    runs = (load_run(folders[0]), load_run(folders[1]))
    refuse_unlike(runs[1], runs[0])
    told = _prompts(runs[0], prompts)
    places = [place for place in sorted(runs[0].rows) if _sha(runs[0], place) != _sha(runs[1], place)]
    if len(places) < pairs:
        same = len(runs[0].rows) - len(places)
        raise BadInputError(
            f"--pairs {pairs}: the runs have {counted(len(places), 'pair')} of different images"
            + (f", and {same} in which both are the same" if same else "")
            + (f"; ask for --pairs {len(places)}" if places else "")
        )
    rng = np.random.default_rng(derived_seed("study", order_seed))
    chosen = [places[number] for number in rng.permutation(len(places))[:pairs]]
    # as many of either method on the left, give or take one, so that a habit of clicking left favours neither
    swapped = rng.permutation(np.arange(pairs) % 2).astype(bool)
    laid = [_pair(runs, place, bool(swap), told[place]) for place, swap in zip(chosen, swapped, strict=True)]
    alignment = QUALITY if all(pair.prompt is None for pair in laid) else ALIGNMENT
    questions = {"quality": alignment, "atypicality": ATYPICALITY}
    shown = [[pair.prompt, *(sha256_bytes(uri.encode()) for uri in pair.uris)] for pair in laid]
    first, second = labels_of(runs)
    answer = StudyKey(
        study=digest_of({"questions": questions, "pairs": shown})[:16],
        order_seed=order_seed,
        methods={"A": first, "B": second},
        questions=questions,
        identical=len(runs[0].rows) - len(places),
        pairs=[
            KeyPair(pair=number, seed=pair.place[0], index=pair.place[1], left=pair.left)
            for number, pair in enumerate(laid, start=1)
        ],
    )
    _refuse_other_key(key, answer)
    write_text(key, pretty_json(answer.model_dump(mode="json")))
    write_text(out, _page(laid, answer))
    return answer


def _page(laid: list[_Pair], key: StudyKey) -> str:
    """The page: of the key it holds the study's digest and the questions, nothing that tells the sides apart."""
    return render(
        "study.html",
        COMMAND,
        kind=ANSWERS_KIND,
        study=key.study,
        questions=key.questions,
        pairs=laid,
        small=max(pair.longest_side for pair in laid) < _SMALL,
    )


def _pair(runs: tuple[DrawnRun, DrawnRun], place: Place, swap: bool, prompt: str | None) -> _Pair:
    images = [image_at(run, place, _LARGEST) for run in runs]
    left, right = images[::-1] if swap else images
    return _Pair(place, "B" if swap else "A", (data_uri(left), data_uri(right)), max(left.shape), prompt)


def _sha(run: DrawnRun, place: Place) -> Any:
    return run.rows[place]["sha256"]


def _prompts(run: DrawnRun, asked: str | None) -> dict[Place, str | None]:
    """The prompt of every image: as samples.json has it, else line i of the file asked for."""
    if asked is None:
        return run.prompts
    prompts = load_prompts(asked)
    prompts.warn_of_blank_lines()
    texts = prompts.texts
    most = max(index for _, index in run.rows)
    if most >= len(texts):
        raise BadInputError(
            f"--prompts {asked}: {counted(len(texts), 'prompt')}, but the runs have images up to number {most}"
        )
    found: dict[Place, str | None] = {place: texts[place[1]] for place in run.rows}
    if any(own is not None and own != found[place] for place, own in run.prompts.items()):
        raise BadInputError(f"--prompts {asked}: {run.folder} was drawn for other prompts; leave it out")
    return found


def _refuse_other_key(path: Path, key: StudyKey) -> None:
    """Answers that were given to an older page need its key."""
    if not path.exists():
        return
    if path.is_dir() or read_json(path) != key.model_dump(mode="json"):
        raise BadInputError(f"--key {path} is there and is not this study's key; choose another name")
