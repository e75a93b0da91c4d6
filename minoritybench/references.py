"""Reference sets: built from ranked scores, stored as recipe and index, loaded by name or folder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from minoritybench.data.source import ImageSource, LoadedImage, SourceSpec, open_source
from minoritybench.errors import BadInputError, CheckFailedError
from minoritybench.records import KeepRule, ReferenceSet, load_reference_recipe
from minoritybench.registry import entries, lookup
from minoritybench.store import PLAN_FILE, digest_of, read_json

RECIPE_FILE = "reference_set.json"
MEMBERS_FILE = "members.csv"
MEMBER_COLUMNS = ["rank", "id", "sha256", "score", "score_deflated"]


@dataclass(frozen=True)
class LoadedReference:
    """A reference set with its members (`MEMBER_COLUMNS`, lowest score first) and the source of their images."""

    recipe: ReferenceSet
    members: pd.DataFrame
    source_spec: SourceSpec

    def images(self) -> list[LoadedImage]:
        """The members' images, lowest score first, each checked against its digest."""
        source = open_source(self.source_spec)
        return [_checked(source, position, row) for position, row in self._positions(source)]

    def _positions(self, source: ImageSource) -> list[tuple[int, Any]]:
        where = {name: position for position, name in enumerate(source.ids)}
        missing = [name for name in self.members["id"] if name not in where]
        if missing:
            raise BadInputError(
                f"reference set {self.recipe.name!r}: {len(missing)} of its images are not in {self.source_spec.name},"
                f" the first is {missing[0]}"
            )
        return [(where[str(row.id)], row) for row in self.members.itertuples()]


def load_reference_set(name: str | Path) -> LoadedReference:
    """A registered reference set, or a folder that `rank-dataset` wrote."""
    folder = Path(name)
    if str(name) in entries("reference-sets"):
        package, _, sub = lookup("reference-sets", str(name)).target.partition(":")
        folder = Path(str(files(package).joinpath(sub)))
    elif not folder.is_dir():
        if "/" in str(name):
            raise BadInputError(f"no such folder: {name}; --reference takes a registered set or a rank-dataset output")
        lookup("reference-sets", str(name))  # raises with a suggestion
    recipe = load_reference_recipe(folder / RECIPE_FILE)
    members = _read_members(folder / MEMBERS_FILE)
    if index_digest(members) != recipe.sha256 or len(members) != recipe.n:
        raise CheckFailedError(
            f"{folder / MEMBERS_FILE} does not match the digest in {RECIPE_FILE}: it was edited or cut"
        )
    root = None
    if (folder / PLAN_FILE).is_file():  # a folder's path is local knowledge: in the plan, never in the recipe
        root = read_json(folder / PLAN_FILE).get("dataset", {}).get("root")
    made_from = recipe.dataset
    return LoadedReference(recipe, members, SourceSpec(made_from["name"], root, made_from["split"], made_from["limit"]))


def _read_members(path: Path) -> pd.DataFrame:
    try:
        members = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path} cannot be read: {error}") from error
    if list(members.columns) != MEMBER_COLUMNS:
        raise BadInputError(f"{path} must have the columns {', '.join(MEMBER_COLUMNS)}")
    try:  # from text, so that every digit written is read back whatever pandas' own parser does
        scores = members[["score", "score_deflated"]].replace("", "nan").astype(float)  # empty: not exactly scored
        return members.assign(rank=members["rank"].astype(int), **scores)
    except ValueError as error:
        raise BadInputError(f"{path}: {error}") from error


def _checked(source: ImageSource, position: int, row: Any) -> LoadedImage:
    image = source.load(position)
    if image.sha256 != row.sha256:
        raise CheckFailedError(
            f"image {row.id} differs from the one in the reference set (sha256 {image.sha256[:12]}...)"
        )
    return image


def index_digest(members: pd.DataFrame) -> str:
    """Identity of a reference set: the ordered (id, content digest) pairs of its members."""
    return digest_of([[str(i), str(s)] for i, s in zip(members["id"], members["sha256"], strict=True)])


def parse_keep(request: str, total: int) -> int:
    """`"375"` or `"25%"` of `total` images, rounded up: how many to keep, at least one."""
    text = request.strip()
    try:
        if text.endswith("%"):
            share = float(text[:-1])
            if not 0 < share <= 100:
                raise ValueError
            return max(1, math.ceil(total * share / 100 - 1e-9))
        count = int(text)
        if count < 1:
            raise ValueError
    except ValueError as error:
        raise BadInputError(
            f"--keep {request!r}: give a count from 1 up, or a share above 0% and up to 100%"
        ) from error
    if count > total:
        raise BadInputError(f"--keep {count}: only {total} images")
    return count


def select_members(scores: pd.DataFrame, request: str, per_class: int | None) -> tuple[pd.DataFrame, KeepRule]:
    """The lowest-ranked rows of a score table, lowest first; with `per_class` the lowest N of every class folder."""
    ranked = scores.dropna(subset=["rank"]).sort_values("rank", kind="stable")
    if per_class is None:
        # a count is checked against the images before any work; those that fail later only make the set smaller
        members = ranked.head(int(request) if request.isdecimal() else parse_keep(request, len(ranked)))
    else:
        classes = ranked["id"].str.rpartition("/")[0]
        members = ranked.groupby(classes, sort=False).head(per_class)
        request = f"{per_class} a class"
    return members[MEMBER_COLUMNS], KeepRule(request=request, per_class=per_class, n=len(members))
