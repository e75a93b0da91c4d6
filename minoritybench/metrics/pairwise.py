"""Exact answers about all pairs of two point sets, at the speed of float32 products and in bounded memory.

Squared distances come from blocks of `|x|^2 + |y|^2 - 2 x.y` in float32. Where the rounding of that could change an
answer (is a point inside a ball, which neighbours are nearest), the pair is computed again as `sum (x - y)^2` in
float64. Answers are therefore those of float64 arithmetic, whatever the block size, thread count or device.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minoritybench.microbatch import torch_threads

ROWS, COLUMNS = 1024, 4096
"""Block of pairs held at a time: 16 MB of float32. Larger ones are new pages from the system at every operation."""
_DEPTH = 256
"""Products summed in one go: the sum of a whole row would have a bound several times larger, and with it as many times
the pairs that are computed again."""
_AGAIN_AT_ONCE = {"cpu": 1 << 16, "cuda": 1 << 24}
"""Float64 elements held where pairs are computed again: on a CPU, few enough to stay in the cache."""
_SPARE = 3
"""Neighbours kept beyond k, so that rounding seldom hides one of the k."""


@dataclass(frozen=True)
class Points:
    """A point set: `exact` `(N, D)` as given, `rough` the same in float32, centred and scaled by constants shared with
    the set it is compared with, `norms` float32 `(N,)` the squared lengths of `rough`."""

    exact: Tensor
    rough: Tensor
    norms: Tensor
    scale: float

    def __len__(self) -> int:
        return len(self.exact)


@dataclass(frozen=True)
class Neighbours:
    """The k nearest others of every point: squared distances, float64 `(N, k)`, ascending, and row numbers; ties by
    number. Squared, because a root squared again is not what it was, and ties would be broken."""

    squares: NDArray[np.float64]
    indices: NDArray[np.int64]

    @property
    def distances(self) -> NDArray[np.float64]:
        """Distances, `(N, k)`."""
        return np.sqrt(self.squares)


@dataclass(frozen=True)
class Block:
    """The pairs of some rows of `a` and some of `b`: `squares` rough and scaled, wrong by `error` at most."""

    a: Points
    b: Points
    rows: slice
    columns: slice
    squares: Tensor
    error: Tensor

    def inside(self, bounds: Tensor) -> Tensor:
        """Whether each pair lies nearer than a bound, strictly: bool like `squares`. `bounds` float64, squared,
        unscaled, broadcast against the block."""
        scaled = (bounds / self.a.scale**2).float()
        margin = self.squares - scaled
        answer = margin < 0
        doubtful = margin.abs_() <= self.error + scaled * (2 * torch.finfo(torch.float32).eps)
        i, j = doubtful.nonzero(as_tuple=True)
        wide = bounds.expand(self.squares.shape)
        exact = exact_squares(self.a, self.b, i + self.rows.start, j + self.columns.start)
        answer[i, j] = exact < wide[i, j]
        return answer


def prepare(*sets: NDArray[Any], device: str = "cpu") -> list[Points]:
    """Point sets `(N, D)`, float32 or float64, finite, made ready to be compared with each other."""
    tensors = [torch.from_numpy(np.ascontiguousarray(points)).to(device) for points in sets]
    total = torch.zeros(tensors[0].shape[1], dtype=torch.float64, device=device)
    for tensor in tensors:
        for part in _parts(len(tensor), ROWS):  # torch would make a float64 copy of the whole to sum it
            total += tensor[part].sum(dim=0, dtype=torch.float64)
    centre = total / sum(len(tensor) for tensor in tensors)
    scale = max(_largest(tensor, centre) for tensor in tensors) or 1.0
    return [_points(tensor, centre, scale) for tensor in tensors]


def _parts(count: int, size: int, start: int = 0) -> Iterator[slice]:
    return (slice(first, min(first + size, count)) for first in range(start, count, size))


def _largest(tensor: Tensor, centre: Tensor) -> float:
    return max(float((tensor[part] - centre).abs().max()) for part in _parts(len(tensor), ROWS))


def _points(tensor: Tensor, centre: Tensor, scale: float) -> Points:
    rough = torch.empty(tensor.shape, dtype=torch.float32, device=tensor.device)
    norms = torch.empty(len(tensor), dtype=torch.float32, device=tensor.device)
    for part in _parts(len(tensor), ROWS):  # in place: small results kept between large ones break the heap up
        rough[part] = ((tensor[part] - centre) / scale).float()
        norms[part] = rough[part].double().square().sum(dim=1).float()
    return Points(tensor, rough, norms, scale)


def pair_blocks(a: Points, b: Points) -> Iterator[Block]:
    """All pairs of the two sets, block by block."""
    for rows, columns in itertools.product(list(_parts(len(a), ROWS)), list(_parts(len(b), COLUMNS))):
        squares, left, right = rough_squares(a, b, rows, columns)
        yield Block(a, b, rows, columns, squares, left.max() + right.max())


def rough_squares(a: Points, b: Points, rows: slice, columns: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Squared distances of a block in scaled float32; they err by `left[i] + right[j]` at most, which follow."""
    left, right = a.norms[rows], b.norms[columns]
    squares = (left.unsqueeze(1) + right.unsqueeze(0)).contiguous()
    for part in _parts(a.rough.shape[1], _DEPTH):
        squares.addmm_(a.rough[rows, part], b.rough[columns, part].T, alpha=-2.0)
    bound = _relative_bound(a.rough.shape[1])
    return squares, left * bound, right * bound


def _relative_bound(width: int) -> float:
    """What a rough square may err by, as a share of `|x|^2 + |y|^2`.

    With u half of float32's epsilon and `2 |x| |y| <= |x|^2 + |y|^2`: a sum of p products in any order errs by p u,
    each of the partial sums, at most twice the share, by another 2 u when it is added, and rounding the coordinates
    and norms by less than 16 u.
    """
    steps = -(-width // _DEPTH)
    return (min(width, _DEPTH) + 2 * steps + 16) * torch.finfo(torch.float32).eps / 2


def exact_squares(a: Points, b: Points, i: Tensor, j: Tensor) -> Tensor:
    """Squared distances of pairs `(P,)` in float64, in the scale the sets were given in."""
    return exact_groups(a, b, i, j.unsqueeze(1)).squeeze(1)


def exact_groups(a: Points, b: Points, i: Tensor, j: Tensor) -> Tensor:
    """The same for rows `i` `(P,)` with several others each, `j` `(P, k)`: `(P, k)`."""
    found = torch.empty(j.shape, dtype=torch.float64, device=i.device)
    with torch_threads(1):  # parts are so small that on a busy machine threads wait for each other far longer
        width = a.exact.shape[1]
        for part in _parts(len(i), max(1, _AGAIN_AT_ONCE[i.device.type] // (width * j.shape[1]))):
            steps = b.exact.index_select(0, j[part].flatten()).double().view(-1, j.shape[1], width)
            steps.sub_(a.exact.index_select(0, i[part]).double().unsqueeze(1))
            found[part] = steps.square_().view(-1, width).sum(dim=1).view(-1, j.shape[1])
    return found


def nearest(a: Points, b: Points | None, k: int) -> Neighbours:
    """The k nearest rows of `b` for each row of `a`, or, without `b`, of its own other rows."""
    others = a if b is None else b
    kept = min(k + _SPARE, len(others) - (b is None))
    values = torch.full((len(a), kept), torch.inf, device=a.rough.device)
    indices = torch.full((len(a), kept), -1, dtype=torch.int64, device=a.rough.device)
    for rows in _parts(len(a), ROWS):
        for columns in _parts(len(others), COLUMNS, start=rows.start if b is None else 0):
            squares = rough_squares(a, others, rows, columns)[0]
            if b is None:
                _blank_self(squares, rows, columns)
            _keep(values, indices, rows, squares, columns.start)
            if b is None:  # and seen from the columns, which no later block of rows will look back to
                first = max(columns.start, rows.stop)
                mirrored = squares[:, first - columns.start :].T.contiguous()
                _keep(values, indices, slice(first, columns.stop), mirrored, rows.start)
    return _settled(a, others, b is None, k, values, indices)


def _blank_self(squares: Tensor, rows: slice, columns: slice) -> None:
    own = torch.arange(max(rows.start, columns.start), max(rows.start, columns.start, min(rows.stop, columns.stop)))
    squares[own - rows.start, own - columns.start] = torch.inf


def _keep(values: Tensor, indices: Tensor, rows: slice, squares: Tensor, start: int) -> None:
    """Merge a block's distances, to points numbered from `start`, into the nearest so far."""
    if not squares.numel():
        return
    count = min(values.shape[1], squares.shape[1])
    block, where = squares.topk(count, dim=1, largest=False)
    merged = torch.cat([values[rows], block], dim=1)
    values[rows], order = merged.topk(values.shape[1], dim=1, largest=False)
    indices[rows] = torch.cat([indices[rows], where + start], dim=1).gather(1, order)


def _settled(a: Points, b: Points, alone: bool, k: int, values: Tensor, indices: Tensor) -> Neighbours:
    """The k nearest of the candidates by exact distance; rows where one may be missing are done again in float64."""
    count, kept = values.shape
    exact = exact_groups(a, b, torch.arange(count, device=values.device), indices)
    squares, numbers = _ordered(exact, indices, k)
    if kept < len(b) - alone:
        bound = _relative_bound(a.rough.shape[1])
        least = values.max(dim=1).values - bound * (a.norms + b.norms.max())
        unsure = (least.double() * a.scale**2 <= squares[:, -1]).nonzero().flatten()
        for row in unsure.tolist():
            squares[row], numbers[row] = _exact_row(a, b, alone, row, k)
    return Neighbours(squares.cpu().numpy(), numbers.cpu().numpy())


def _exact_row(a: Points, b: Points, alone: bool, row: int, k: int) -> tuple[Tensor, Tensor]:
    everyone = torch.arange(len(b), device=a.rough.device)
    if alone:
        everyone = everyone[everyone != row]
    squares = exact_squares(a, b, torch.full_like(everyone, row), everyone)
    found = _ordered(squares.unsqueeze(0), everyone.unsqueeze(0), k)
    return found[0][0], found[1][0]


def _ordered(squares: Tensor, indices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest, ascending, equal ones by number."""
    by_number = indices.argsort(dim=1)
    squares, indices = squares.gather(1, by_number), indices.gather(1, by_number)
    order = squares.argsort(dim=1, stable=True)[:, :k]
    return squares.gather(1, order), indices.gather(1, order)
