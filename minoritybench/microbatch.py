"""Fixed micro-batches: the cure for results that change with the batch size.

Matrix kernels pick their blocking by shape, so a row computed in a batch of 3 differs in its last bits from the same
row in a batch of 256. Running every network on exactly `size` rows, the last micro-batch padded with copies of its
first row, makes each row's result independent of how many were asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Run the block with `count` torch threads, then restore; `None` leaves the setting alone.

    Small networks are faster on one thread and bitwise repeatable only when the thread count is fixed.
    """
    before = torch.get_num_threads()
    if count is not None and count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Run the block with matrix products and convolutions in full float32 on CUDA, then restore.

    TF32 keeps ten bits of the mantissa, and PyTorch lets convolutions use it unless told otherwise. Nothing changes on
    a CPU. Usable as a decorator.
    """
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    allowed = [backend for backend in backends if backend.allow_tf32]
    for backend in allowed:
        backend.allow_tf32 = False
    try:
        yield
    finally:
        for backend in allowed:
            backend.allow_tf32 = True


def pad_rows(rows: Tensor, size: int) -> Tensor:
    """`(b, ...)` with `1 <= b <= size` to `(size, ...)`, padded with copies of the first row.

    A copy rather than zeros: an all-zero image is a singular point of normalising layers.
    """
    missing = size - rows.shape[0]
    return rows if missing == 0 else torch.cat([rows, rows[:1].expand(missing, *rows.shape[1:])])


def map_micro_batches(function: Callable[[Tensor], Tensor], rows: Tensor, size: int) -> Tensor:
    """Apply a row-wise function to `(N, ...)` in fixed micro-batches; `(N, ...)` out, for any `N >= 1`."""
    outputs = []
    for start in range(0, rows.shape[0], size):
        block = rows[start : start + size]
        outputs.append(function(pad_rows(block, size))[: block.shape[0]])
    return torch.cat(outputs)
