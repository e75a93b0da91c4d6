"""Randomness that belongs to an image, not to a batch.

Image `index` of a run draws from generators keyed by `(run seed, index, stream, step)`. Nothing is consumed in order,
so batch size, worker count, resume and a method that skips steps leave every other draw as it was, and methods share
their initial and transition noise image by image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def derived_seed(*key: object) -> int:
    """A 63-bit seed from any printable key, equal on every machine (BLAKE2b of the key's parts)."""
    text = "\x1f".join(str(part) for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class ImageStreams:
    """The random streams of a batch of images.

    `seed` is the run's; `indices` are the images' numbers within the run. Draws are made on the CPU in float32, so
    that a GPU run starts from the same noise, and stacked along the first axis.
    """

    seed: int
    indices: Sequence[int]

    def generator(self, index: int, stream: str, step: int) -> torch.Generator:
        """The generator of one image, stream and step."""
        generator = torch.Generator()
        generator.manual_seed(derived_seed(self.seed, index, stream, step))
        return generator

    def normal(self, shape: Sequence[int], stream: str, step: int = 0) -> Tensor:
        """Standard normal draws, float32 `(len(indices), *shape)`."""
        return torch.stack([torch.randn(*shape, generator=self.generator(i, stream, step)) for i in self.indices])

    def integers(self, high: int, stream: str, step: int = 0) -> Tensor:
        """Uniform integers in `[0, high)`, int64 `(len(indices),)`."""
        draws = [torch.randint(high, (), generator=self.generator(i, stream, step)) for i in self.indices]
        return torch.stack(draws)
