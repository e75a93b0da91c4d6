"""What a text-to-image run is drawn by: its prompts and how the chain runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from minoritybench.data.prompts import Prompts, load_prompts
from minoritybench.diffusion.model import DiffusionModel
from minoritybench.diffusion.schedule import Schedule
from minoritybench.diffusion.text import TextCondition, TextModel
from minoritybench.errors import BadInputError
from minoritybench.records import BenchmarkSpec, TextSpec, validated


@dataclass(frozen=True)
class TextRun:
    """Image i of every seed is drawn for prompt i."""

    model: TextModel
    spec: TextSpec
    prompts: Prompts

    def facts(self) -> dict[str, Any]:
        """What identifies the run, for plans and records."""
        settings = self.spec.model_dump(mode="json")
        return {**settings, "prompts": self.prompts.name, "prompts_sha256": self.prompts.sha256}

    def schedule(self, steps: int) -> Schedule:
        """The respaced chain."""
        return self.model.noise_schedule(steps, self.spec)

    def start_scale(self, schedule: Schedule) -> float:
        """What the initial noise is multiplied by: 1, or the largest Euler sigma in variance-preserving terms."""
        return float(1 - schedule.alphas_cumprod[-1]) ** 0.5 if self.spec.start == "euler" else 1.0

    def encoded(self, indices: Sequence[int]) -> TextCondition:
        """The prompts of some images."""
        return self.model.encode_prompts([self.prompts.texts[i] for i in indices], self.spec.guidance_scale)


def open_text_run(
    model: DiffusionModel, benchmark: BenchmarkSpec, n: int, prompts: str | None, chain: dict[str, Any]
) -> TextRun | None:
    """The run of `n` prompts with a text-to-image generator, `prompts` and `chain` over the benchmark's own; None in
    pixel space, where giving either exits 2."""
    if not hasattr(model, "encode_prompts"):
        if prompts is not None or chain:
            raise BadInputError(f"--prompts and --chain are for text-to-image; {model.name} takes no prompts")
        return None
    if benchmark.text is None:
        raise BadInputError(f"benchmark {benchmark.name!r} has no prompts; {model.name} is a text-to-image generator")
    if "prompts" in chain:
        raise BadInputError("--chain prompts: name the file with --prompts")
    given = {**chain, **({} if prompts is None else {"prompts": prompts})}
    spec = validated(TextSpec, {**benchmark.text.model_dump(), **given}, "--chain")
    return TextRun(cast(TextModel, model), spec, load_prompts(spec.prompts).first(n))
