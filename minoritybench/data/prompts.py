"""Prompt files of text-to-image benchmarks: one prompt a line, blank lines left out."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from minoritybench.assets import cache_folder
from minoritybench.errors import BadInputError, MissingAssetError, counted
from minoritybench.store import digest_of, sha256_bytes

_HUB = "hf:"
_PACKAGE = "minoritybench.benchmarks"
COCO = "coco"
COCO_FILE = "coco_v2.txt"
COCO_SHA256 = "ed8b716a377b653d9701798c92abc621f41af197ccc24ae68cde50e58b63835e"
"""The papers' file: 40,640 lines, 40,507 of them prompts; runs take the first 5,000."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompts:
    """Prompts in order; `name` for people, `sha256` of the texts; `blank` lines of the file were left out."""

    name: str
    texts: tuple[str, ...]
    blank: int = 0

    @property
    def sha256(self) -> str:
        """Digest of the texts, whatever file they came in."""
        return digest_of(list(self.texts))

    def first(self, n: int) -> Prompts:
        """The first `n` of them; too few are one line (exit 2)."""
        if n > len(self.texts):
            raise BadInputError(
                f"{counted(n, 'prompt')} wanted, but {self.name} has {counted(len(self.texts), 'prompt')}: --n says how"
                " many"
            )
        return replace(self, texts=self.texts[:n])

    def warn_of_blank_lines(self) -> None:
        """Log, once a process, how many lines were left out: prompt i is then not line i of the file."""
        if self.blank:
            _warn_of_blank_lines(self.name, self.blank)


def load_prompts(name: str) -> Prompts:
    """The prompts of a shipped file (`digits-t2i`), the papers' `coco`, `hf:OWNER/NAME:FILE` or a path.

    Errors: `coco` and hub files that are not here exit 4 and say where to get them; a path that leads nowhere, and a
    file that is no text or holds none, exit 2.
    """
    if name == COCO:
        return replace(_parsed(name, _coco()), blank=0)  # they belong to the papers' file
    if name.startswith(_HUB):
        return _parsed(name, _from_hub(name))
    shipped = files(_PACKAGE).joinpath("prompts", f"{name}.txt")
    if "/" not in name and shipped.is_file():
        return _parsed(name, shipped.read_bytes())
    path = Path(name)
    if not path.is_file():
        raise BadInputError(f"--prompts {name}: no such file; it holds one prompt a line")
    return _parsed(path.name, path.read_bytes())


def _parsed(name: str, data: bytes) -> Prompts:
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BadInputError(f"--prompts {name}: not UTF-8 text: {error}") from error
    texts = tuple(line.strip() for line in lines if line.strip())
    if not texts:
        raise BadInputError(f"--prompts {name}: no prompt in it; it holds one a line")
    return Prompts(name, texts, len(lines) - len(texts))


@cache
def _warn_of_blank_lines(name: str, count: int) -> None:
    said = counted(count, "blank line")
    _log.warning("--prompts %s: %s left out; what comes after moves up", name, said)


def _coco() -> bytes:
    path = cache_folder() / "prompts" / COCO_FILE
    if not path.is_file():
        raise MissingAssetError(
            f"prompts {COCO_FILE} (MS-COCO captions, 2.2 MB) are not here; take the file from the repository of"
            f" MinorityPrompt, https://github.com/soobin-um/MinorityPrompt, and put it at {path}, or use --prompts"
        )
    data = path.read_bytes()
    if sha256_bytes(data) != COCO_SHA256:
        raise BadInputError(f"{path} is not the papers' file (its sha256 differs); fetch it again, or use --prompts")
    return data


def _from_hub(name: str) -> bytes:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    repo, colon, file = name.removeprefix(_HUB).partition(":")
    if not colon or not file:
        raise BadInputError(f"--prompts {name}: write hf:OWNER/NAME:FILE, the file with one prompt a line")
    try:
        found = try_to_load_from_cache(repo, file, repo_type="dataset")
    except HFValidationError as error:
        raise BadInputError(f"--prompts {name}: write hf:OWNER/NAME:FILE") from error
    if not isinstance(found, str):
        command = f"hf download {repo} {file} --repo-type dataset"
        raise MissingAssetError(f"--prompts {name}: not in the hub's cache; fetch it with `{command}`")
    return Path(found).read_bytes()
