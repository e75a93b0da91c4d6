"""The benchmark's prompts: captions of training images, drawn with a fixed seed."""

from __future__ import annotations

import numpy as np

from minoritybench.embedded.captions import captions
from minoritybench.embedded.data import load_doubled_split

PROMPTS = 500
PROMPT_SEED = 16


def draw_prompts(count: int = PROMPTS, seed: int = PROMPT_SEED) -> list[str]:
    """Captions of `count` training images drawn with replacement, so that classes, attributes and repeats come as real.

    NumPy guarantees that the stream of `RandomState` does not change.
    """
    train = load_doubled_split("train")
    index = np.random.RandomState(seed).randint(len(train), size=count)
    return captions(train.images[index], train.labels[index])
