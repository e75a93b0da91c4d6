"""Datasets of the Hugging Face hub, read from their parquet files: `hf:OWNER/NAME[:CONFIG]`."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from minoritybench.data.source import ImageDecodeError, LoadedImage, SourceSpec, decode_rgb
from minoritybench.errors import BadInputError, MissingAssetError
from minoritybench.store import digest_of, sha256_bytes

PREFIX = "hf:"
_FILE = re.compile(r"(?P<split>[\w.-]+?)(?:-\d+-of-(?P<total>\d+)(?:-[0-9a-f]+)?)?\.parquet")
_CONFIG = re.compile(r"\w[\w.+-]*")
_LABEL = "label"
_PREFERRED = ("image", "img")
_GROUPS_KEPT = 2


@dataclass(frozen=True)
class HubRepo:
    """A dataset repository; `config` a folder of it or None; `patterns` which of its files are wanted."""

    repo: str
    config: str | None = None
    patterns: tuple[str, ...] = ("*.parquet",)

    @property
    def page(self) -> str:
        """Where a person reads about it."""
        return f"https://huggingface.co/datasets/{self.repo}"

    def command(self, root: Path | None) -> str:
        """The hub's own command that fetches it, into its cache or into `root`."""
        include = " ".join(f"--include '{pattern}'" for pattern in self.patterns)
        return f"hf download {self.repo} --repo-type dataset {include}" + (f" --local-dir {root}" if root else "")


def parse_hub_name(name: str) -> HubRepo:
    """`hf:OWNER/NAME[:CONFIG]` taken apart. A configuration is a folder of the repository, or of its `data` folder."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, not in its __all__

    repo, colon, config = name.removeprefix(PREFIX).partition(":")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise BadInputError(f"{name!r}: write hf:OWNER/NAME or hf:OWNER/NAME:CONFIG") from error
    if colon and not _CONFIG.fullmatch(config):
        raise BadInputError(f"{name!r}: write hf:OWNER/NAME:CONFIG, the configuration being the name of one folder")
    patterns = (f"{config}/*.parquet", f"data/{config}/*.parquet") if config else ("*.parquet",)
    return HubRepo(repo, config or None, patterns)


def open_hub(spec: SourceSpec) -> HubSource:
    """An `hf:` dataset from `--root`, else from the hub's cache; exit 4 with the command that fetches it."""
    wanted = parse_hub_name(spec.name)
    root = None if spec.root is None else Path(spec.root).absolute()
    folder = cached(wanted) if root is None else root
    if folder is None or not folder.is_dir():
        raise MissingAssetError(
            f"{spec.name}: not found at {folder or place_of(wanted)}; get it (size at {wanted.page}) with"
            f" `{wanted.command(root)}`, or add --download"
        )
    return HubSource(SourceSpec(spec.name, None if root is None else str(root), spec.split, spec.limit), folder, wanted)


def cached(wanted: HubRepo) -> Path | None:
    """The snapshot in the hub's cache, None where it is absent or a download of it never ended."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        patterns = list(wanted.patterns)
        found = snapshot_download(wanted.repo, repo_type="dataset", local_files_only=True, allow_patterns=patterns)
    except LocalEntryNotFoundError:
        return None
    return Path(str(found))


def place_of(wanted: HubRepo) -> Path:
    """Where the hub's own tools keep a dataset."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE) / f"datasets--{wanted.repo.replace('/', '--')}"


class HubSource:
    """Parquet files with a column of `{bytes, path}` structs, one row group in memory at a time.

    Ids are `<split>/<row>`, or `<label>/<split>-<row>` where there is an integer column `label`, so that `--per-class`
    works. Rows are counted through the split's files in order of name. `sha256` is of the stored image bytes. With
    labels the order of ids jumps between row groups and each jump reads one; unpacked folders are faster there.
    """

    def __init__(self, spec: SourceSpec, folder: Path, wanted: HubRepo) -> None:
        splits = parquet_splits(folder, wanted.config)
        if not splits:
            raise MissingAssetError(
                f"{spec.name}: no parquet files in {folder}{f' for {wanted.config}' if wanted.config else ''};"
                f" get them with `{wanted.command(folder if spec.root else None)}`, or add --download"
            )
        split = spec.split or ("train" if len(splits) > 1 else next(iter(splits)))
        if split not in splits:
            raise BadInputError(f"--split {split!r}: {spec.name} has the splits {', '.join(splits)}")
        self.spec = SourceSpec(spec.name, spec.root, split, spec.limit)
        self._folder, self._files = folder, splits[split]
        _check_whole(spec.name, self._files, split, wanted.command(folder if spec.root else None))
        self._column = ""
        self._groups: list[tuple[Path, int]] = []
        self._starts: list[int] = []
        names = self._names(split)
        order = sorted(range(len(names)), key=names.__getitem__)[: spec.limit]
        self._ids, self._rows = [names[row] for row in order], np.array(order, dtype=np.int64)
        self._group = lru_cache(maxsize=_GROUPS_KEPT)(self._read_group)

    @property
    def ids(self) -> Sequence[str]:
        """Ascending."""
        return self._ids

    def load(self, index: int) -> LoadedImage:
        """Decode the image of one row."""
        row = int(self._rows[index])
        group = bisect_right(self._starts, row) - 1
        try:
            cell = self._group(group)[row - self._starts[group]].as_py()
        except (OSError, pa.ArrowException) as error:
            raise ImageDecodeError(f"its row group cannot be read: {_line(error)}") from error
        data = None if cell is None else cell["bytes"]
        if data is None:
            raise ImageDecodeError("the row holds no image bytes")
        pixels, conversion = decode_rgb(data)
        return LoadedImage(pixels, sha256_bytes(data), len(data), conversion)

    def fingerprint(self) -> str:
        """Digest of the files' names, sizes and modification times."""
        facts = [(path.relative_to(self._folder).as_posix(), path.stat()) for path in self._files]
        return digest_of([[name, fact.st_size, fact.st_mtime_ns] for name, fact in facts])

    def _names(self, split: str) -> list[str]:
        """The id of every row; notes the image column and where each row group begins on the way."""
        names: list[str] = []
        for path in self._files:
            try:
                with pq.ParquetFile(path) as file:
                    self._column = self._column or image_column(file.schema_arrow, path)
                    start = len(names)
                    for group in range(file.num_row_groups):
                        self._groups.append((path, group))
                        self._starts.append(start)
                        start += file.metadata.row_group(group).num_rows
                    rows = range(len(names), start)
                    labels = _labels(file)
            except (OSError, pa.ArrowException) as error:
                raise BadInputError(f"{path} cannot be read as parquet: {_line(error)}") from error
            if labels is None:
                names += [f"{split}/{row:08d}" for row in rows]
            else:
                names += [f"{label}/{split}-{row:08d}" for row, label in zip(rows, labels, strict=True)]
        return names

    def _read_group(self, group: int) -> Any:
        path, number = self._groups[group]
        with pq.ParquetFile(path) as file:
            return file.read_row_group(number, columns=[f"{self._column}.bytes"]).column(0)


def parquet_splits(folder: Path, config: str | None) -> dict[str, list[Path]]:
    """Files by split, in order of name. Known layouts: `<split>-00000-of-00002.parquet` or `<split>.parquet` in `data`,
    in the folder itself or in one folder a configuration; `<split>/0000.parquet` as the hub converts datasets."""
    if config is not None:
        return _splits_in(folder / config) or _splits_in(folder / "data" / config)
    found = _splits_in(folder / "data") or _splits_in(folder)
    if found or not folder.is_dir():
        return found
    configs = {path.name: splits for path in sorted(folder.iterdir()) if (splits := _splits_in(path))}
    if len(configs) > 1:
        raise BadInputError(f"{folder} holds several configurations, {', '.join(configs)}: write hf:OWNER/NAME:CONFIG")
    return next(iter(configs.values()), {})


def _splits_in(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.parquet")):
        if match := _FILE.fullmatch(path.name):
            found.setdefault(match["split"], []).append(path)
    for path in sorted(folder.glob("*/*.parquet")):
        if path.stem.isdecimal():
            found.setdefault(path.parent.name, []).append(path)
    return found


def _check_whole(name: str, files: list[Path], split: str, command: str) -> None:
    """File names state how many there are: a download that stopped half-way is not taken for the whole."""
    totals = {int(match["total"]) for path in files if (match := _FILE.fullmatch(path.name)) and match["total"]}
    if totals and totals != {len(files)}:
        raise MissingAssetError(
            f"{name}: {len(files)} of the {max(totals)} {split} files are in {files[0].parent}; complete them with"
            f" `{command}`, or add --download"
        )


def image_column(schema: Any, path: Path) -> str:
    """The column of `{bytes, path}` structs; where there are several, the one declared as Image or called `image`."""
    structs = [field.name for field in schema if pa.types.is_struct(field.type) and _has_bytes(field.type)]
    declared = _declared_images(schema)
    images = [name for name in structs if name in declared] or structs
    best = next((name for name in _PREFERRED if name in images), None)
    if best is None and len(images) != 1:
        held = f"several image columns ({', '.join(images)})" if images else "no column of {bytes, path} structs"
        raise BadInputError(f"{path} has {held}; its columns: {', '.join(schema.names)}")
    return best or images[0]


def _declared_images(schema: Any) -> set[str]:
    """Columns that the file's own metadata call images; none where it holds nothing of the kind."""
    try:
        stated = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = stated["info"]["features"]
        return {name for name, feature in features.items() if feature.get("_type") == "Image"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return set()


def _has_bytes(struct: Any) -> bool:
    position = struct.get_field_index("bytes")
    return position >= 0 and (
        pa.types.is_binary(struct.field(position).type) or pa.types.is_large_binary(struct.field(position).type)
    )


def _labels(file: Any) -> list[int] | None:
    schema = file.schema_arrow
    if _LABEL not in schema.names or not pa.types.is_integer(schema.field(_LABEL).type):
        return None
    labels: list[int] = file.read(columns=[_LABEL]).column(0).to_pylist()
    return labels


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
