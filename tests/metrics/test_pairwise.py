"""Blocked, mixed-precision pairs against whole float64 distance matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from coarse_products import choose_products
from numpy.typing import NDArray

from minoritybench.metrics import pairwise

Array = NDArray[Any]


def brute_force(a: Array, b: Array | None, k: int) -> tuple[Array, Array]:
    """Squares and numbers of the k nearest, ties by number, from all differences."""
    other = a if b is None else b
    squares = ((a[:, None].astype(np.float64) - other[None].astype(np.float64)) ** 2).sum(axis=2)
    if b is None:
        np.fill_diagonal(squares, np.inf)
    order = np.argsort(squares, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(squares, order, axis=1), order


def clouds(seed: int, dtype: Any) -> tuple[Array, Array]:
    """Unequal sizes, an offset that float32 products feel, some duplicates within and across."""
    rng = np.random.default_rng(seed)
    a = (rng.normal(size=(90, 12)) + 100).astype(dtype)
    b = (rng.normal(size=(70, 12)) * 1.2 + 100).astype(dtype)
    a[5:9] = a[4]
    b[:3] = a[:3]
    return a, b


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("width", [3, 65, 512, 2048])
def test_bounds_hold_the_squares(width: int, coarse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    choose_products(monkeypatch, coarse)
    rng = np.random.default_rng(width)
    spread = np.arange(1, width + 1) ** -0.5
    a = (rng.normal(size=(150, width)) * spread + 3).astype(np.float32)
    b = (np.concatenate([a[:40], rng.normal(size=(90, width)) * spread]) * 1.01).astype(np.float32)
    first, second = pairwise.prepare(a, b)
    assert first.dtype == (torch.bfloat16 if coarse else torch.float32)
    squares = ((a[:, None].astype(np.float64) - b[None].astype(np.float64)) ** 2).sum(axis=2)
    (block,) = pairwise.pair_blocks(first, second)
    for dim, count in enumerate((len(a), len(b))):
        pairs = block.near(torch.full((count,), torch.inf, dtype=torch.float64), dim)
        assert len(set(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True))) == squares.size
        exact = squares[pairs.i, pairs.j]
        assert (pairs.low.numpy() <= exact).all()
        assert (exact <= pairs.high.numpy()).all()
        assert (pairs.high - pairs.low).max() < (0.05 if coarse else 1e-3) * squares.max()
    near = pairwise.Candidates.of(first, second, 5)
    low, high = (bound.numpy() for bound in near.bounds())
    fifth = np.sort(squares, axis=1)[:, 4]
    assert (low <= fifth).all()
    assert (fifth <= high).all()


def test_coarse_products_are_left_where_they_tell_nothing_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clusters far apart and narrow, and one wide cloud."""
    monkeypatch.setattr(pairwise, "has_matrix_units", lambda: True)
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(600, 512)).astype(np.float32)
    clusters = np.float32(0.02) * cloud
    clusters[:300] += 1
    assert {points.dtype for points in pairwise.prepare(cloud, cloud)} == {torch.bfloat16}
    assert {points.dtype for points in pairwise.prepare(cloud, clusters)} == {torch.float32}
    assert {points.dtype for points in pairwise.prepare(cloud[:500], cloud)} == {torch.float32}


def test_float32_and_float64_sets_share_their_offset() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(30, 6)) + 1000 / 3, (rng.normal(size=(40, 6)) + 1000 / 3).astype(np.float32)
    for first, second in ((a, b), (b, a)):
        found = pairwise.nearest(*pairwise.prepare(first, second), 3)
        np.testing.assert_array_equal(found.indices, brute_force(first, second, 3)[1])


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("block", [(2048, 8192), (13, 7), (7, 64), (64, 13)])
def test_nearest_agrees_with_all_differences(
    block: tuple[int, int], dtype: Any, coarse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_products(monkeypatch, coarse)
    monkeypatch.setattr(pairwise, "ROWS", block[0])
    monkeypatch.setattr(pairwise, "COLUMNS", block[1])
    a, b = clouds(0, dtype)
    for other in (None, b):
        sets = pairwise.prepare(a) if other is None else pairwise.prepare(a, other)
        found = pairwise.nearest(sets[0], None if other is None else sets[1], 4)
        squares, order = brute_force(a, other, 4)
        np.testing.assert_allclose(found.squares, squares, rtol=1e-12)
        np.testing.assert_array_equal(found.indices, order)


def test_results_are_the_same_bytes_for_any_block_and_thread_count(monkeypatch: Any) -> None:
    a, b = clouds(1, np.float32)
    found = []
    for rows, columns, threads in ((2048, 8192, 1), (11, 19, 2), (19, 11, 1)):
        monkeypatch.setattr(pairwise, "ROWS", rows)
        monkeypatch.setattr(pairwise, "COLUMNS", columns)
        torch.set_num_threads(threads)
        try:
            near = pairwise.nearest(*pairwise.prepare(a, b), 6)
        finally:
            torch.set_num_threads(1)
        found.append((near.squares.tobytes(), near.indices.tobytes()))
    assert len(set(found)) == 1


@pytest.mark.parametrize("coarse", [False, True])
def test_neighbours_hidden_by_rounding_are_found(coarse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty points nearer to each other than float32 can tell at that distance from the centre."""
    choose_products(monkeypatch, coarse)
    rng = np.random.default_rng(2)
    crowd = 1000 + 1e-6 * rng.normal(size=(20, 8))
    far = rng.normal(size=(60, 8)) * 2000
    points = np.concatenate([crowd, far])
    near = pairwise.nearest(*pairwise.prepare(points), None, 3)
    squares, order = brute_force(points, None, 3)
    np.testing.assert_array_equal(near.indices, order)
    np.testing.assert_allclose(near.squares, squares, rtol=1e-12)


def test_many_duplicates_are_ordered_by_number() -> None:
    points = np.repeat(np.arange(5.0)[:, None], 12, axis=0)
    near = pairwise.nearest(*pairwise.prepare(points), None, 4)
    np.testing.assert_array_equal(near.indices, brute_force(points, None, 4)[1])
    assert not near.squares.any()


def test_inside_is_strict_at_the_bound() -> None:
    """A ball of squared radius 7 does not hold a point at squared distance 7, though its root squared is above 7."""
    a, b = pairwise.prepare(np.zeros((1, 3)), np.array([[1.0, 1.0, 5.0**0.5], [2.0, 1.0, 1.0], [2.0, 1.0, 1.5]]))
    (block,) = pairwise.pair_blocks(b, a)
    bounds = torch.tensor([6.0, 7.0, 7.25], dtype=torch.float64)
    inside = block.inside(bounds).i.tolist()
    exact = ((b.exact - a.exact) ** 2).sum(dim=1)
    assert inside == (exact < bounds).nonzero().squeeze(1).tolist()
    assert 2 not in inside
