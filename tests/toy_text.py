"""Text-to-image without text-to-image weights: the embedded class-conditional digits DDPM under prompts.

The digit word that a prompt holds becomes the class label; a prompt without one is unconditional.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minoritybench.diffusion.embedded import DigitsDdpm
from minoritybench.diffusion.schedule import Schedule, make_schedule
from minoritybench.diffusion.text import TextCondition
from minoritybench.records import BenchmarkSpec, TextSpec, load_benchmark

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PROMPTS = tuple(f"a {'bold' if digit % 2 else 'thin'} {WORDS[digit]}" for digit in (*range(6), *range(6)))
GENERATOR = f"{Path(__file__)}:load_toy"


class WordDdpm(DigitsDdpm):
    def encode_prompts(self, prompts: Sequence[str], guidance_scale: float) -> TextCondition:
        found = [next((digit for digit, word in enumerate(WORDS) if word in text), 10) for text in prompts]
        guided = guidance_scale not in (0.0, 1.0)
        empty = TextCondition(tuple("" for _ in prompts), torch.full((len(prompts),), 10))
        return TextCondition(tuple(prompts), torch.tensor(found), None, None, empty if guided else None, guidance_scale)

    def noise_schedule(self, steps: int, text: TextSpec) -> Schedule:
        return make_schedule(self.schedule, str(steps), self.train_steps)

    def predict(self, x_t: Tensor, timestep: Tensor, labels: Any) -> Tensor:
        eps = super().predict(x_t, timestep, labels.embeds)
        if labels.unconditional is None:
            return eps
        clean = super().predict(x_t, timestep, labels.unconditional.embeds)
        return clean + labels.guidance_scale * (eps - clean)


def load_toy(name: str, *, device: str = "cpu", dtype: str = "float32") -> WordDdpm:
    model = WordDdpm("digits-ddpm", device)
    model.name = name
    return model


def text_benchmark(*metrics: Any, prompts: str = "prompts.txt") -> BenchmarkSpec:
    """The digits benchmark with prompts, guidance, few images and few steps, under its own name."""
    changes = {
        "generator": GENERATOR,
        "metrics": list(metrics),
        "n": len(PROMPTS),
        "seeds": [0, 1],
        "steps": 10,
        "text": {"prompts": prompts, "guidance_scale": 1.5},
    }
    return BenchmarkSpec.model_validate(load_benchmark("digits").model_dump() | changes)
