"""Going on with less memory: how much of a micro-batch is held at once, halved whenever it does not fit.

The rows of one backward pass and the images whose Jacobians are held together only group the work: the network is
evaluated on the same micro-batch, so halving them leaves scores equal bit for bit (measured on the embedded encoders,
where every chunk from 1 to 32 rows gives the same Jacobian). A smaller micro-batch is another matter: kernels then
block differently and Jacobian entries move by some 5e-7 of the largest. So the graph itself is split on a GPU only,
whose results are stated within a tolerance anyway, and never on the CPU.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from minoritybench.encoders.base import Encoder, micro_batch_of
from minoritybench.errors import MinorityBenchError
from minoritybench.scoring.jacobian import ROWS_PER_CHUNK

Result = TypeVar("Result")
log = logging.getLogger(__name__)

_TOLD_BY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
"""What torch says on CUDA and MPS, on the CPU, and from within cuBLAS and its kin."""


class MemoryExhaustedError(MinorityBenchError):
    """The least that can be held at once does not fit; finished shards are kept."""

    exit_code = 5


@dataclass(frozen=True)
class Portion:
    """What is held at once: Jacobian rows of one backward pass, images whose Jacobians are held, images of a graph."""

    rows: int
    images: int
    graph: int


class Backoff:
    """The portion that has fitted so far; one object serves a run, so that what failed once is not tried again."""

    def __init__(self, encoder: Encoder, device: torch.device | str, rows: int = ROWS_PER_CHUNK) -> None:
        size = micro_batch_of(encoder)
        self.portion = Portion(rows, size, size)
        self._split_graph = torch.device(device).type != "cpu"

    def run(self, compute: Callable[[Portion], Result]) -> Result:
        """`compute(portion)`, again with half of it each time memory runs out. Errors: `MemoryExhaustedError`."""
        while True:
            try:
                return compute(self.portion)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._shrink(error)
            release_memory()  # only here is the failed attempt's traceback, which holds its tensors, gone

    def _shrink(self, error: BaseException) -> None:
        now = self.portion
        if now.rows > 1:
            self.portion = replace(now, rows=now.rows // 2)
        elif now.images > 1:
            self.portion = replace(now, images=now.images // 2)
        elif self._split_graph and now.graph > 1:
            self.portion = replace(now, graph=now.graph // 2)
        else:
            raise MemoryExhaustedError(
                f"out of memory with one Jacobian row at a time, in a network call of {now.graph} images: use fewer"
                " --workers, another --device or a smaller encoder; the same command resumes"
            ) from error
        log.warning(
            "out of memory: going on with %d Jacobian rows at a time, the Jacobians of %d images and graphs of %d",
            *(self.portion.rows, self.portion.images, self.portion.graph),
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(said in str(error) for said in _TOLD_BY)


def release_memory() -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
