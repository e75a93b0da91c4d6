"""Progress for people: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
log = logging.getLogger(__name__)


def say_resumed(done: int, total: int) -> None:
    """Tell that a started run goes on; nothing for a fresh or a finished one."""
    if 0 < done < total:
        log.info("resuming: %d of %d shards are done", done, total)


def track(items: Iterable[Item], *, total: int, done: int, label: str) -> Iterator[Item]:
    """Pass `items` through, drawing a bar on stderr if it is a terminal; `done` of `total` were done before."""
    if not sys.stderr.isatty() or total == done:
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total, completed=done)
        for item in items:
            yield item
            bar.advance(task)
