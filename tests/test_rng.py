"""Random streams belong to images."""

from __future__ import annotations

import hashlib

import torch

from minoritybench.rng import ImageStreams, derived_seed


def test_draws_do_not_depend_on_the_batch() -> None:
    whole = ImageStreams(3, range(10)).normal((2, 4), "transition", 7)
    assert torch.equal(ImageStreams(3, [9, 2]).normal((2, 4), "transition", 7), whole[[9, 2]])


def test_streams_steps_seeds_and_images_differ() -> None:
    draws = [
        ImageStreams(seed, [index]).normal((4,), stream, step)
        for seed, index, stream, step in [
            (0, 0, "a", 0),
            (1, 0, "a", 0),
            (0, 1, "a", 0),
            (0, 0, "b", 0),
            (0, 0, "a", 1),
        ]
    ]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == 5


def test_seeds_are_fixed_across_machines() -> None:
    key = "\x1f".join(("0", "1", "transition", "2")).encode()
    expected = int(hashlib.new("blake2b", key, digest_size=8).hexdigest(), 16) // 2
    assert derived_seed(0, 1, "transition", 2) == expected == 1853000770048665012
    assert derived_seed(1, 23) != derived_seed(12, 3)


def test_normal_draws_look_standard_and_integers_uniform() -> None:
    streams = ImageStreams(0, range(200))
    normal = streams.normal((64,), "initial")
    assert abs(float(normal.mean())) < 0.03
    assert abs(float(normal.std()) - 1) < 0.02
    counts = torch.bincount(streams.integers(10, "labels"), minlength=10)
    assert counts.sum() == 200
    assert counts.min() > 5
