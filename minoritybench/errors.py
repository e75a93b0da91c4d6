"""Errors a user can meet. Each carries the exit code of the command line (see `minoritybench --help`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

First = TypeVar("First")
Second = TypeVar("Second")


class MinorityBenchError(Exception):
    """Base of all expected failures: one clear line naming the file, field or flag and the remedy."""

    exit_code = 2


class BadInputError(MinorityBenchError):
    """Usage or input is wrong: unknown name, unreadable file, conflicting flags."""

    exit_code = 2


class CheckFailedError(MinorityBenchError):
    """A check that was asked for did not hold."""

    exit_code = 1


class MissingDependencyError(MinorityBenchError):
    """An optional package is not installed; the message prints the install command."""

    exit_code = 3


class MissingAssetError(MinorityBenchError):
    """Data or weights are absent; the message says what, from where, and to which path, of each of `lacks`."""

    exit_code = 4

    def __init__(self, *lacks: str) -> None:
        super().__init__("; and ".join(lacks))
        self.lacks = lacks


def counted(count: int, noun: str) -> str:
    """A number of things as messages say it: `1 image`, `12 images`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def all_or_absent(*openers: Callable[[], object]) -> None:
    """Open several things for what they lack alone: it is told in one `MissingAssetError`, each lack once."""
    lacks: list[str] = []
    for opener in openers:
        try:
            opener()
        except MissingAssetError as error:
            lacks += error.lacks
    if lacks:
        raise MissingAssetError(*dict.fromkeys(lacks))


def both_or_absent(first: Callable[[], First], second: Callable[[], Second]) -> tuple[First, Second]:
    """Open two things; what each lacks is told in one `MissingAssetError`, so that nobody fetches 138 GB of data to
    learn next that weights are wanted too."""
    try:
        opened = first()
    except MissingAssetError as error:
        try:
            second()
        except MissingAssetError as other:
            raise MissingAssetError(*error.lacks, *other.lacks) from error
        raise
    return opened, second()
