"""Reference sets: built from ranked scores, stored as recipe and index, loaded by name or folder."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from minoritybench.data.source import ImageDecodeError, ImageSource, LoadedImage, SourceSpec, open_source
from minoritybench.errors import BadInputError, CheckFailedError, MissingAssetError
from minoritybench.records import KeepRule, ReferenceSet, load_protocol, load_reference_recipe
from minoritybench.registry import entries, lookup
from minoritybench.store import PLAN_FILE, digest_of, read_json

RECIPE_FILE = "reference_set.json"
MEMBERS_FILE = "members.csv"
HIGHEST_FILE = "highest.csv"
"""Of an embedded set: the images of highest score, highest first, for contrast; members.csv's columns."""
SCORES_FILE = "scores.parquet"
PROTOCOL_FILE = "recipe.toml"
MEMBER_COLUMNS = ["rank", "id", "sha256", "score", "score_deflated"]
_LOCAL = ("folder", "zip")
_MOVED = "if they were moved, `minoritybench verify REFERENCE --root DIR` names the new place"


@dataclass(frozen=True)
class LoadedReference:
    """A reference set with its members (`MEMBER_COLUMNS`, lowest score first) and the source of their images."""

    recipe: ReferenceSet
    members: pd.DataFrame
    source_spec: SourceSpec

    def images(self) -> list[LoadedImage]:
        """The members' images, lowest score first, each checked against its digest."""
        return list(self.each_image())

    def each_image(self) -> Iterator[LoadedImage]:
        """What `images` returns, one at a time. Errors: all images gone exit 4, some gone or altered exit 1."""
        source = self.source()
        for position, row in zip(self.positions(source), self.members.itertuples(), strict=True):
            yield _checked(source, position, row)

    def positions(self, source: ImageSource) -> list[int]:
        """Where the members stand in their source."""
        where = {name: position for position, name in enumerate(source.ids)}
        missing = [name for name in self.members["id"] if name not in where]
        if missing:
            raise CheckFailedError(
                f"reference set {self.recipe.name!r}: {len(missing)} of its {len(self.members)} images are not in"
                f" {source.spec.root or source.spec.name}, the first is {missing[0]}; {_MOVED}"
            )
        return [where[str(name)] for name in self.members["id"]]

    def source(self) -> ImageSource:
        """All images that the set was chosen from; exit 4 where they are gone."""
        spec = self.source_spec
        if spec.root is None and spec.name in _LOCAL:
            raise MissingAssetError(
                f"reference set {self.recipe.name!r} does not say where its images lie ({PLAN_FILE} is not beside it);"
                f" {_MOVED}"
            )
        if spec.name in _LOCAL and not Path(str(spec.root)).exists():
            raise MissingAssetError(
                f"reference set {self.recipe.name!r}: its {len(self.members)} images are no longer in {spec.root};"
                f" {_MOVED}"
            )
        return open_source(spec)


def load_reference_set(name: str | Path, root: str | Path | None = None) -> LoadedReference:
    """A registered reference set, or a folder that `rank-dataset` wrote. `root`: where the images lie now, if not where
    they were ranked. Errors: one that is only a recipe so far exits 4 with the command that builds it."""
    folder = reference_folder(name)
    if is_recipe_only(folder):
        unbuilt = load_protocol(folder / PROTOCOL_FILE)
        raise MissingAssetError(
            f"reference set {unbuilt.name!r}: {unbuilt.status}; build it with `{unbuilt.command}`, which leaves it in"
            f" {Path(unbuilt.out).absolute()}, then name that folder in place of {unbuilt.name}"
        )
    recipe = load_reference_recipe(folder / RECIPE_FILE)
    _check_recipe(recipe, folder / RECIPE_FILE)
    members = _read_members(folder / MEMBERS_FILE)
    if index_digest(members) != recipe.sha256 or len(members) != recipe.n:
        raise CheckFailedError(
            f"{folder / MEMBERS_FILE} does not match the digest in {RECIPE_FILE}: it was edited or cut"
        )
    where = _planned_root(folder / PLAN_FILE) if root is None else str(Path(root).absolute())
    made_from = recipe.dataset
    spec = SourceSpec(made_from["name"], where, made_from.get("split"), made_from.get("limit"))
    return LoadedReference(recipe, members, spec)


def both_ends(name: str, count: int) -> tuple[LoadedReference, LoadedReference] | None:
    """The `count` images of lowest and of highest score of what a registered set was chosen from, the lowest and the
    highest first; None where the set is only a recipe or does not list its highest."""
    folder = reference_folder(name)
    if is_recipe_only(folder) or not (folder / HIGHEST_FILE).is_file():
        return None
    reference = load_reference_set(name)
    lowest, highest = reference.members, _read_members(folder / HIGHEST_FILE)
    return replace(reference, members=lowest.head(count)), replace(reference, members=highest.head(count))


def is_recipe_only(folder: Path) -> bool:
    """Whether a reference set's folder says how it will be built, and no more."""
    return not (folder / RECIPE_FILE).exists() and (folder / PROTOCOL_FILE).is_file()


def _check_recipe(recipe: ReferenceSet, path: Path) -> None:
    """Facts that every reader of a reference set takes for granted; a recipe edited by hand may lack them."""
    needed = {
        "dataset.name": (recipe.dataset.get("name"), str),
        "dataset.n": (recipe.dataset.get("n"), int),
        "dataset.split": (recipe.dataset.get("split"), str | None),
        "dataset.limit": (recipe.dataset.get("limit"), int | None),
        "encoder.name": (recipe.encoder.get("name"), str),
        "encoder.weights_sha256": (recipe.encoder.get("weights_sha256", 0), str | None),
    }
    for field, (value, kind) in needed.items():
        if not isinstance(value, kind):
            raise BadInputError(f"{path}: {field} is absent or of the wrong kind; rank-dataset writes a whole file")


def _planned_root(path: Path) -> str | None:
    """Where the ranked images lay: a folder's path is local knowledge, in the plan, never in the recipe."""
    if not path.is_file():
        return None
    plan = read_json(path)
    dataset = plan.get("dataset") if isinstance(plan, dict) else None
    root = dataset.get("root") if isinstance(dataset, dict) else ""
    if root is not None and (not isinstance(root, str) or not root):
        raise BadInputError(f"{path} is not a plan of rank-dataset; remove it and name the images with --root DIR")
    return root


def reference_folder(name: str | Path) -> Path:
    """Where the files of a registered reference set or a `rank-dataset` output lie."""
    if str(name) in entries("reference-sets"):
        package, _, sub = lookup("reference-sets", str(name)).target.partition(":")
        return Path(str(files(package).joinpath(sub)))
    if not Path(name).is_dir():
        if "/" in str(name):
            raise BadInputError(f"no such folder: {name}; name a registered reference set or a rank-dataset output")
        lookup("reference-sets", str(name))  # raises with a suggestion
    return Path(name)


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


def csv_text(frame: pd.DataFrame) -> str:
    """A table as CSV with a line feed after each row. A field with a comma, a quote or either line break in it is
    quoted; pandas leaves a bare carriage return unquoted and reads it back as the end of the row."""

    def row(fields: Iterable[Any]) -> str:
        texts = ("" if pd.isna(field) else str(field) for field in fields)
        return ",".join(
            '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text for text in texts
        )

    return "".join(f"{row(fields)}\n" for fields in [list(frame.columns), *frame.to_numpy(dtype=object).tolist()])


def _checked(source: ImageSource, position: int, row: Any) -> LoadedImage:
    try:
        image = source.load(position)
    except ImageDecodeError as error:
        raise CheckFailedError(f"image {row.id} of the reference set can no longer be read: {error}") from error
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


def keep_count(request: str, total: int) -> int:
    """How many of `total` scored images a request keeps: a count is checked against the images before any work, so
    those that fail later only make the set smaller."""
    return min(int(request), total) if request.isdecimal() else parse_keep(request, total)


def class_of(name: str) -> str:
    """The class folder of an image's id."""
    return name.rpartition("/")[0]


def select_members(scores: pd.DataFrame, request: str, per_class: int | None) -> tuple[pd.DataFrame, KeepRule]:
    """The lowest-ranked rows of a score table, lowest first; with `per_class` the lowest N of every class folder."""
    ranked = scores.dropna(subset=["rank"]).sort_values("rank", kind="stable")
    if per_class is None:
        members = ranked.head(keep_count(request, len(scores)))
    else:
        classes = ranked["id"].map(class_of)
        members = ranked.groupby(classes, sort=False).head(per_class)
        request = f"{per_class} a class"
    return members[MEMBER_COLUMNS], KeepRule(request=request, per_class=per_class, n=len(members))
