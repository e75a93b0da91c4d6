"""`--download`: fetch an absent dataset. Nothing else in the toolkit opens a connection for data."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minoritybench.data.catalogue import DEFAULT_ROOT, known, mirror_folder, require
from minoritybench.data.hub import PREFIX, HubRepo, open_hub, parse_hub_name, place_of
from minoritybench.data.packed import SPLITS, PackedSource
from minoritybench.data.source import SourceSpec
from minoritybench.errors import BadInputError, MinorityBenchError, MissingAssetError


def fetch(name: str, root: str | None) -> None:
    """Fetch dataset `name` unless it is here already; embedded data and local folders need nothing.

    CIFAR and MNIST come through torchvision, which checks their published MD5 sums, and are moved into `root` (default
    `data`) only when whole. `hf:` datasets and the hub's copies of CelebA and ImageNet come through huggingface_hub,
    into its cache, or into the given `root`; a stopped one resumes and is not taken for whole. Errors: no connection,
    a refusal or an altered file is one line, exit 4; so is a dataset that has to be fetched by hand.
    """
    if name.startswith(PREFIX):
        wanted = parse_hub_name(name)
        if not _opens(name, root):
            _fetch_hub(name, wanted, None if root is None else Path(root).absolute())
            open_hub(SourceSpec(name, root))  # says what is missing if less came than the files' names promise
        return
    dataset = known(name)
    if dataset is None:
        return
    if isinstance(dataset.fetched, HubRepo):
        folder = Path(root or DEFAULT_ROOT).absolute()
        if all((folder / item).exists() for item in dataset.files):
            return
        _fetch_hub(name, dataset.fetched, None if root is None else folder / f"{name}-hub")
        if mirror_folder(name, root) is None:
            raise MissingAssetError(f"{name}: the download left nothing at {place_of(dataset.fetched)}; run it again")
    elif dataset.fetched is not None:
        _fetch_packed(name, dataset.fetched, Path(root or DEFAULT_ROOT).absolute())
    else:
        require(name, root)


def _opens(name: str, root: str | None) -> bool:
    try:
        open_hub(SourceSpec(name, root))
    except MissingAssetError:
        return False
    return True


def _fetch_hub(name: str, wanted: HubRepo, folder: Path | None) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError

    place = folder or place_of(wanted)
    try:
        with _failures_told(name, wanted.page, place):
            patterns = list(wanted.patterns)
            snapshot_download(wanted.repo, repo_type="dataset", local_dir=folder, allow_patterns=patterns)
    except MissingAssetError as error:
        cause = error.__cause__
        if isinstance(cause, GatedRepoError) or isinstance(getattr(cause, "__cause__", None), GatedRepoError):
            raise MissingAssetError(
                f"{name}: {wanted.repo} is gated; accept its terms at {wanted.page}, log in with `hf auth login` and"
                " run the same command again"
            ) from cause
        raise


def _fetch_packed(name: str, dataset: str, root: Path) -> None:
    from torchvision import datasets

    if _whole(name, root):
        return
    source = getattr(datasets, dataset)
    page = getattr(source, "url", None) or source.mirrors[0]
    with _failures_told(name, page, root):
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as staging:
            for train in (True, False):
                source(staging, train=train, download=True)
            _move(Path(staging), root)


def _whole(name: str, root: Path) -> bool:
    """Both splits open, so that a half-written folder is fetched again."""
    try:
        for split in SPLITS:
            PackedSource(SourceSpec(name, str(root), split))
    except (MissingAssetError, BadInputError):
        return False
    return True


def _move(staging: Path, root: Path) -> None:
    """Unpacked files to their places, each at once; the archives they came in are dropped."""
    for path in sorted(staging.rglob("*")):
        if path.is_file() and path.suffix != ".gz":
            target = root / path.relative_to(staging)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)


@contextmanager
def _failures_told(name: str, source: str, place: Path) -> Iterator[None]:
    try:
        yield
    except (MinorityBenchError, MemoryError):
        raise
    except Exception as error:  # downloaders let through whatever their transports raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise MissingAssetError(
            f"{name}: download from {source} to {place} failed: {reason}; run the same command again or"
            " fetch it by hand"
        ) from error
