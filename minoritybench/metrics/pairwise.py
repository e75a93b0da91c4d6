"""Exact answers about all pairs of two point sets, at the speed of rough products and in bounded memory.

Blocks of pairs get a lower bound of each squared distance from `|x|^2 + |y|^2 - 2 x.y`, in float32, or in bfloat16 on
processors with matrix units for it. Where the rounding of that could change an answer (is a point inside a ball, which
neighbours are nearest), the pair is computed again as `sum (x - y)^2` in float64. Answers are therefore those of
float64 arithmetic, whatever the block size, thread count or device. No copy of a set is made: blocks are centred,
scaled and rounded when they are needed, which costs few percent of their products.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minoritybench.microbatch import torch_threads

ROWS, COLUMNS = 4096, 2048
"""Block of pairs held at a time: 32 MB of float32, 16 of bfloat16 and as much again for the points."""
_STRIP = 32
"""Pairs whose least is looked at first; few strips of a block hold anything near."""
_DEPTH = 256
"""Float32 products summed in one go: the sum of a whole row would have a bound several times larger, and with it as
many times the pairs that are computed again."""
_AGAIN_AT_ONCE = {"cpu": 1 << 16, "cuda": 1 << 24}
"""Float64 elements held where pairs are computed again: on a CPU, few enough to stay in the cache."""
_COARSE_FROM = 512
"""Points and dimensions from which bfloat16 products are worth their rounding."""
_SPARE = {torch.float32: 3, torch.bfloat16: 11}
"""Neighbours kept beyond k, so that rounding seldom hides one of the k."""
_EPS, _COARSE_EPS = torch.finfo(torch.float32).eps / 2, torch.finfo(torch.bfloat16).eps / 2


@dataclass(frozen=True)
class Points:
    """A point set: `exact` `(N, D)` as given; `centre` `(D,)` and `scale`, shared with the set it is compared with;
    `norms` float32 `(N,)`, squared lengths once centred and scaled; `dtype` of its rough products, and `loss`, the
    largest share of its length that a point is moved by when rounded to it from float32."""

    exact: Tensor
    centre: Tensor
    scale: float
    norms: Tensor
    dtype: torch.dtype
    loss: float

    def __len__(self) -> int:
        return len(self.exact)

    def fine(self) -> Points:
        """The same with float32 products."""
        return replace(self, dtype=torch.float32, loss=0.0)

    def subset(self, rows: Tensor) -> Points:
        """Some of the points."""
        return replace(self, exact=self.exact[rows], norms=self.norms[rows])

    def rough(self, rows: slice, out: Tensor, factor: float = 1.0) -> Tensor:
        """Rows centred, scaled and rounded, times a power of two, in `out`."""
        for part in _parts(rows.stop - rows.start, 256):  # small enough to stay in the cache
            shifted = (self.exact[rows][part] - self.centre).div_(self.scale)
            out[part] = shifted.float().mul_(factor)
        return out[: rows.stop - rows.start]


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
class Pairs:
    """Some pairs of points: row numbers `i` of the one set and `j` of the other, and bounds `low` and `high` of the
    squared distance, unscaled; all `(P,)`, bounds float64."""

    i: Tensor
    j: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class Block:
    """The pairs of some rows of `a` and some of `b`: `low` float32, scaled lower bounds of their squared distances,
    valid until the next block is asked for."""

    a: Points
    b: Points
    rows: slice
    columns: slice
    low: Tensor

    def near(self, bounds: Tensor, dim: int) -> Pairs:
        """Pairs that may lie nearer than a bound of their row (`dim` 0, bounds of all of `a`) or of their column (1, of
        all of `b`): float64, squared, unscaled."""
        scale, own = self.a.scale**2, (self.rows, self.columns)[dim]
        limits = (bounds[own] / scale).float() * (1 + 8 * _EPS)
        i, j = _below(self.low, limits) if dim == 0 else _below_by_column(self.low, limits)
        low = self.low[i, j].double()
        norms = self.a.norms[self.rows][i].double() + self.b.norms[self.columns][j]
        high = low + 2 * _share(self.a, self.b) * norms + _least_step(self.a)
        return Pairs(i + self.rows.start, j + self.columns.start, low * scale, high * scale)

    def inside(self, bounds: Tensor) -> Pairs:
        """The pairs that lie nearer than the bound of their row, strictly."""
        pairs = self.near(bounds, 0)
        inside = pairs.high < bounds[pairs.i]
        doubtful = (~inside).nonzero().squeeze(1)
        i, j = pairs.i[doubtful], pairs.j[doubtful]
        inside[doubtful] = exact_squares(self.a, self.b, i, j) < bounds[i]
        return Pairs(pairs.i[inside], pairs.j[inside], pairs.low[inside], pairs.high[inside])


def _below(low: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the elements `(R, C)` under their row's limit, by row."""
    rows, columns = low.shape
    size = math.gcd(columns, _STRIP)
    strips = low.view(rows, size, columns // size)
    i, strip = (strips.amin(dim=1) < limits[:, None]).nonzero(as_tuple=True)
    which, place = (strips[i, :, strip] < limits[i, None]).nonzero(as_tuple=True)
    return i[which], place * (columns // size) + strip[which]


def _below_by_column(low: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the elements `(R, C)` under their column's limit."""
    rows, columns = low.shape
    size = math.gcd(rows, _STRIP)
    strips = low.view(size, rows // size, columns)
    strip, j = (strips.amin(dim=0) < limits).nonzero(as_tuple=True)
    place, which = (strips[:, strip, j] < limits[j]).nonzero(as_tuple=True)
    return place * (rows // size) + strip[which], j[which]


def prepare(*sets: NDArray[Any], device: str = "cpu") -> list[Points]:
    """Point sets `(N, D)`, float32 or float64, finite, made ready to be compared with each other."""
    tensors = [torch.from_numpy(np.ascontiguousarray(points)).to(device) for points in sets]
    width = tensors[0].shape[1]
    total = torch.zeros(width, dtype=torch.float64, device=device)
    for tensor in tensors:
        for part in _parts(len(tensor), 256):  # torch would make a float64 copy of the whole to sum it
            total += tensor[part].sum(dim=0, dtype=torch.float64)
    centre = total / sum(len(tensor) for tensor in tensors)
    if any(tensor.dtype == torch.float32 for tensor in tensors):
        centre = centre.float().double()  # the same offset for all, and float32 differences are then float32 work
    scale = max(_largest(tensor, centre) for tensor in tensors) or 1.0
    coarse = device == "cpu" and has_matrix_units() and min(width, *map(len, tensors)) >= _COARSE_FROM
    found = [_points(tensor, centre, scale, torch.bfloat16 if coarse else torch.float32) for tensor in tensors]
    return found if not coarse or all(_resolves(points) for points in found) else [points.fine() for points in found]


@functools.cache
def has_matrix_units() -> bool:
    """Whether this processor multiplies bfloat16 matrices several times faster than float32 ones."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16"))


def _resolves(points: Points) -> bool:
    """Whether bfloat16 tells most neighbours apart, by a sample: else more is done again than is saved. Only time
    hangs on it."""
    places = torch.linspace(0, len(points) - 1, min(len(points), 1024)).long()
    sample = points.fine().subset(places.to(points.norms.device))
    block = next(pair_blocks(sample, sample))
    least = block.low.kthvalue(min(8, block.low.shape[1]), dim=1).values
    errors = 4 * _share(points, points) * sample.norms[block.rows]
    return float((errors < 0.1 * least).float().mean()) > 0.8


def _parts(count: int, size: int, start: int = 0) -> Iterator[slice]:
    return (slice(first, min(first + size, count)) for first in range(start, count, size))


def _largest(tensor: Tensor, centre: Tensor) -> float:
    return max(float((tensor[part] - centre).abs().max()) for part in _parts(len(tensor), 256))


def _points(tensor: Tensor, centre: Tensor, scale: float, dtype: torch.dtype) -> Points:
    norms = tensor.new_empty(len(tensor), dtype=torch.float32)
    points = Points(tensor, centre.to(tensor.dtype), scale, norms, dtype, loss=0.0)
    buffer, loss = tensor.new_empty((256, tensor.shape[1]), dtype=torch.float32), 0.0
    for part in _parts(len(tensor), 256):
        rough = points.rough(part, buffer)
        squares = rough.double().square_().sum(dim=1)
        norms[part] = squares.float()
        if dtype != torch.float32:
            moved = (rough - rough.to(dtype)).double().square_().sum(dim=1)
            loss = max(loss, float((moved / squares.clamp(min=torch.finfo(torch.float64).tiny)).max()) ** 0.5)
    return replace(points, loss=loss)


def pair_blocks(a: Points, b: Points, *, half: bool = False) -> Iterator[Block]:
    """All pairs of the two sets, block by block, in memory that is used again; `half` leaves out blocks wholly below
    the diagonal."""
    width, device = a.exact.shape[1], a.exact.device
    shape = min(ROWS, len(a)), min(COLUMNS, len(b))
    left, right = (torch.empty((count, width), dtype=a.dtype, device=device) for count in shape)
    squares = torch.empty(shape[0] * shape[1], dtype=torch.float32, device=device)
    products = torch.empty_like(squares, dtype=a.dtype) if a.dtype == torch.bfloat16 else None
    for rows in _parts(len(a), ROWS):
        x, row_norms = a.rough(rows, left, -2.0), a.norms[rows] * (1 - _share(a, b))
        for columns in _parts(len(b), COLUMNS, start=rows.start if half else 0):
            y, column_norms = b.rough(columns, right), b.norms[columns] * (1 - _share(a, b)) - _least_step(a)
            size = len(x), len(y)
            low = squares[: size[0] * size[1]].view(size)
            if products is None:
                torch.add(row_norms[:, None], column_norms, out=low)
                for part in _parts(width, _DEPTH):
                    low.addmm_(x[:, part], y[:, part].T)
            else:
                low.copy_(torch.mm(x, y.T, out=products[: size[0] * size[1]].view(size)))
                low.add_(column_norms).add_(row_norms[:, None])
            yield Block(a, b, rows, columns, low)


def _share(a: Points, b: Points) -> float:
    """What a rough square may err by, as a share of `|x|^2 + |y|^2`.

    With u half of float32's epsilon and `2 |x| |y| <= |x|^2 + |y|^2`: a sum of p products in any order errs by p u,
    each of the partial sums, at most twice the share, by another 2 u when it is added, and rounding the coordinates,
    norms and this bound itself by less than 24 u. bfloat16 moves both points, which by Cauchy-Schwarz changes the
    product by the shares `loss` of their lengths, and rounds the product, which is summed in float32.
    """
    width = a.exact.shape[1]
    if a.dtype == torch.bfloat16:
        return 1.01 * (a.loss + b.loss + _COARSE_EPS) + (width + 24) * _EPS
    return (min(width, _DEPTH) + 2 * -(-width // _DEPTH) + 24) * _EPS


def _least_step(points: Points) -> float:
    """What products too small for float32 may add to that."""
    return 4 * points.exact.shape[1] * torch.finfo(torch.float32).tiny


def exact_squares(a: Points, b: Points, i: Tensor, j: Tensor) -> Tensor:
    """Squared distances of pairs `(P,)` in float64, in the scale the sets were given in."""
    found = torch.empty(len(i), dtype=torch.float64, device=i.device)
    with torch_threads(1):  # parts are so small that on a busy machine threads wait for each other far longer
        for part in _parts(len(i), max(1, _AGAIN_AT_ONCE[i.device.type] // a.exact.shape[1])):
            steps = b.exact.index_select(0, j[part]).double()
            found[part] = steps.sub_(a.exact.index_select(0, i[part])).square_().sum(dim=1)
    return found


def nearest(a: Points, b: Points | None, k: int) -> Neighbours:
    """The k nearest rows of `b` for each row of `a`, or, without `b`, of its own other rows."""
    squares, numbers = Candidates.of(a, b, k).settled(torch.arange(len(a), device=a.exact.device))
    return Neighbours(squares.cpu().numpy(), numbers.cpu().numpy())


@dataclass(frozen=True)
class Candidates:
    """For each row of `a` the others that may be among its k nearest: scaled lower bounds `low` float32 `(N, c)` and
    numbers `(N, c)` in `b`; `own` is what the rows of `a` are called there, None if they are not of it."""

    a: Points
    b: Points
    k: int
    own: Tensor | None
    low: Tensor
    indices: Tensor

    @classmethod
    def of(cls, a: Points, b: Points | None, k: int) -> Candidates:
        """Of the rows of `b`, or, without it, of the other rows of `a`, each pair of which is looked at once."""
        own = torch.arange(len(a), device=a.exact.device) if b is None else None
        return cls._found(a, a if b is None else b, k, own, half=b is None)

    @classmethod
    def _found(cls, a: Points, b: Points, k: int, own: Tensor | None, *, half: bool) -> Candidates:
        kept, device = min(k + _SPARE[a.dtype], len(b) - (own is not None)), a.exact.device
        low = torch.full((len(a), kept), torch.inf, device=device)
        indices = torch.full((len(a), kept), -1, dtype=torch.int64, device=device)
        found = cls(a, b, k, own, low, indices)
        for block in pair_blocks(a, b, half=half):
            if own is not None:
                numbers = own[block.rows] - block.columns.start
                here = ((numbers >= 0) & (numbers < block.low.shape[1])).nonzero().squeeze(1)
                block.low[here, numbers[here]] = torch.inf
            found._keep(block.rows, block.low, block.columns.start)
            first = max(block.columns.start, block.rows.stop)
            if half and first < block.columns.stop:  # seen from the columns, to which no later block looks back
                mirrored = block.low[:, first - block.columns.start :]
                found._keep(slice(first, block.columns.stop), mirrored.T, block.rows.start)
        return found

    def _keep(self, rows: slice, low: Tensor, start: int) -> None:
        """Merge a block's bounds, of others numbered from `start`, into the least so far."""
        kept, limits = self.low.shape[1], self.low[rows].amax(dim=1)
        if limits.isinf().any():
            values, others = low.topk(min(kept, low.shape[1]), dim=1, largest=False)
            who = torch.arange(rows.start, rows.stop, device=low.device)
        else:
            if low.is_contiguous():
                i, j = _below(low, limits)
            else:
                j, i = _below_by_column(low.T.contiguous(), limits)
            if not len(i):
                return
            values, others, who = _table(i, j, low[i, j])
            who = who + rows.start
        merged = torch.cat([self.low[who], values], dim=1)
        self.low[who], order = merged.topk(kept, dim=1, largest=False)
        self.indices[who] = torch.cat([self.indices[who], others + start], dim=1).gather(1, order)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Between which the squared distance to the k-th nearest lies: float64 `(N,)` twice, unscaled."""
        norms = self.a.norms[:, None].double() + self.b.norms[self.indices]
        high = self.low + 2 * _share(self.a, self.b) * norms + _least_step(self.a)
        low, high = (side.double().kthvalue(self.k, dim=1).values * self.a.scale**2 for side in (self.low, high))
        return low, high

    def settled(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Exact squared distances and numbers `(P, k)` of the k nearest of some rows `(P,)`. Rows where one may be
        missing are done again more finely: by float32 products, in the end in float64."""
        numbers, reach = self.indices[rows], self.bounds()[1][rows]
        place, which = (self.low[rows].double() * self.a.scale**2 <= reach[:, None]).nonzero(as_tuple=True)
        exact = torch.full(numbers.shape, torch.inf, dtype=torch.float64, device=rows.device)
        exact[place, which] = exact_squares(self.a, self.b, rows[place], numbers[place, which])
        squares, numbers = _ordered(exact, numbers, self.k)
        if self.low.shape[1] == len(self.b) - (self.own is not None):
            return squares, numbers
        missed = self.low[rows].amax(dim=1).double() * self.a.scale**2 <= squares[:, -1]
        unsure = missed.nonzero().squeeze(1)
        own = None if self.own is None else self.own[rows[unsure]]
        if len(unsure) and self.a.dtype == torch.bfloat16:
            some = self.a.subset(rows[unsure]).fine()
            finer = self._found(some, self.b.fine(), self.k, own, half=False)
            squares[unsure], numbers[unsure] = finer.settled(torch.arange(len(some), device=rows.device))
            return squares, numbers
        for place, row in zip(unsure.tolist(), rows[unsure].tolist(), strict=True):
            squares[place], numbers[place] = self._exact_row(row)
        return squares, numbers

    def _exact_row(self, row: int) -> tuple[Tensor, Tensor]:
        everyone = torch.arange(len(self.b), device=self.low.device)
        if self.own is not None:
            everyone = everyone[everyone != self.own[row]]
        squares = exact_squares(self.a, self.b, torch.full_like(everyone, row), everyone)
        found = _ordered(squares.unsqueeze(0), everyone.unsqueeze(0), self.k)
        return found[0][0], found[1][0]


def _table(i: Tensor, j: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs as rows: values, filled up with infinity, and numbers `(U, w)`, and which `i` each row is, `(U,)`."""
    i, order = i.sort(stable=True)
    who, counts = torch.unique_consecutive(i, return_counts=True)
    starts = counts.cumsum(0) - counts
    row = torch.arange(len(who), device=i.device).repeat_interleave(counts)
    place = torch.arange(len(i), device=i.device) - starts[row]
    shape = len(who), int(counts.max())
    filled = torch.full(shape, torch.inf, device=i.device)
    numbers = torch.full(shape, -1, dtype=torch.int64, device=i.device)
    filled[row, place], numbers[row, place] = values[order], j[order]
    return filled, numbers, who


def _ordered(squares: Tensor, indices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest, ascending, equal ones by number."""
    by_number = indices.argsort(dim=1)
    squares, indices = squares.gather(1, by_number), indices.gather(1, by_number)
    order = squares.argsort(dim=1, stable=True)[:, :k]
    return squares.gather(1, order), indices.gather(1, order)
