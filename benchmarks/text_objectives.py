"""Does each text-to-image method move what it says it moves? Its own objective against plain DDIM's, prompt by prompt.

    python benchmarks/text_objectives.py [--prompts 100] [--seeds 11 12 13 14]

Finished latents of `ddim` and of each method, drawn for the same prompts from the same noise at the settings of the
board: SGMS' discrepancy and JEPA's score of them; how far the images of one prompt lie apart over seeds, in the
benchmark's features, which is what CADS is for; and for MinorityPrompt the discrepancy it optimises, under the prompt
and under the prompt with its token, on the steps it acts on. Prompts are the units: seeds are averaged first. Prints a
markdown table with 95 % t-intervals of the mean difference.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minoritybench.diffusion.loop import run_chain
from minoritybench.diffusion.step import StepContext
from minoritybench.features import load_extractor
from minoritybench.metrics import t_interval
from minoritybench.microbatch import torch_threads
from minoritybench.rng import ImageStreams
from minoritybench.sample_job import Sampler, SampleRequest, open_sampler
from minoritybench.text_run import TextRun

BASELINE = "ddim"
Values = NDArray[np.float64]


@dataclass
class Watched:
    """A method whose `condition` hook is measured: its objective under the condition it is given and its own."""

    method: Any
    before: list[Tensor] = field(default_factory=list)
    after: list[Tensor] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)

    def condition(self, step: StepContext, labels: Any) -> Any:
        chosen = self.method.condition(step, labels)
        if chosen is not labels:
            for kept, condition in ((self.before, labels), (self.after, chosen)):
                step.labels = condition
                kept.extend(self.method.objective(step).values())
        return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--benchmark", default="digits-t2i")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14])
    options = parser.parse_args()
    plain = drawn(BASELINE, options)
    print("| method | objective | ddim | method | difference, 95 % over prompts |")
    print("|---|---|---:|---:|---:|")
    for name in ("sgms", "jepa"):
        sampler = opened(name, options)
        before, after = (objective(sampler, options, latents) for latents in (plain, drawn(name, options)))
        for told in before:
            print(row(name, told, before[told].mean(axis=0), after[told].mean(axis=0)), flush=True)
    spread = [diversity(opened(BASELINE, options), latents) for latents in (plain, drawn("cads", options))]
    print(row("cads", "distance between images of a prompt", *spread), flush=True)
    watched = Watched(opened("minorityprompt", options).method.instance)
    drawn("minorityprompt", options, watched)
    print(
        row("minorityprompt", "prompt discrepancy", *(_by_prompt(v, options) for v in (watched.before, watched.after)))
    )


def opened(name: str, options: Any) -> Sampler:
    return open_sampler(SampleRequest(name, options.benchmark, n=options.prompts, seeds=tuple(options.seeds)))


def drawn(name: str, options: Any, method: Any = None) -> Tensor:
    """Finished latents `(seeds, prompts, *state_shape)`."""
    sampler = opened(name, options)
    schedule, resources = sampler.schedule(), {key: need.value for key, need in sampler.needs.items()}
    found = []
    for seed in options.seeds:
        for block in _blocks(sampler, options.prompts):
            streams = ImageStreams(seed, block)
            with torch_threads(sampler.model.threads):
                latents, _ = run_chain(
                    sampler.model,
                    schedule,
                    method or sampler.method.instance,
                    streams,
                    _text(sampler).encoded(block),
                    resources=resources,
                )
            found.append(latents)
    return torch.cat(found).unflatten(0, (len(options.seeds), -1))[:, : options.prompts]


def objective(sampler: Sampler, options: Any, latents: Tensor) -> dict[str, Values]:
    """The method's objectives `(seeds, prompts)` of finished latents, seen as denoised estimates at the last step."""
    resources = {key: need.value for key, need in sampler.needs.items()}
    found: dict[str, list[Tensor]] = {}
    for seed, states in zip(options.seeds, latents, strict=True):
        for block in _blocks(sampler, len(states)):
            known = states[block]
            step = StepContext(
                known,
                0,
                sampler.schedule(),
                _text(sampler).encoded(block),
                sampler.model,
                ImageStreams(seed, block),
                resources,
                Counter(),
            )
            step.x0_hat = known
            for name, values in sampler.method.instance.objective(step).items():
                found.setdefault(name, []).append(values)
    shape = (len(options.seeds), -1)
    count = latents.shape[1]
    return {name: torch.cat(v).unflatten(0, shape)[:, :count].double().numpy() for name, v in found.items()}


def diversity(sampler: Sampler, latents: Tensor) -> Values:
    """Mean distance `(prompts,)` in the benchmark's features between two images of a prompt."""
    extractor = load_extractor(sampler.benchmark.manifold_features, "cpu")
    with torch.no_grad():
        images = torch.cat([sampler.model.decode(part) for part in latents.flatten(0, 1).split(16)]).clamp(0, 1)
        features: Any = extractor(images)
    rows = torch.from_numpy(features).double()
    sets = rows.unflatten(0, latents.shape[:2])
    pairs = [torch.linalg.vector_norm(sets[i] - sets[j], dim=1) for i, j in combinations(range(len(sets)), 2)]
    return torch.stack(pairs).mean(dim=0).numpy()


def row(name: str, told: str, before: Values, after: Values) -> str:
    mean, low, high = t_interval(list(after - before))
    assert low is not None
    assert high is not None
    cells = [name, told, f"{before.mean():.4f}", f"{after.mean():.4f}", f"{mean:+.4f} ± {high - mean:.4f}"]
    return "| " + " | ".join(cells) + " |"


def _text(sampler: Sampler) -> TextRun:
    assert sampler.text is not None
    return sampler.text


def _blocks(sampler: Sampler, count: int) -> list[list[int]]:
    """Prompt numbers in whole micro-batches; the last is filled up with the last prompt's neighbours from the front."""
    size = sampler.model.micro_batch
    return [[index % count for index in range(start, start + size)] for start in range(0, count, size)]


def _by_prompt(values: list[Tensor], options: Any) -> Values:
    """Measured per micro-batch and step, in the order of seeds and blocks: mean over steps and seeds `(prompts,)`."""
    size = len(values[0])
    blocks = -(-options.prompts // size)
    steps = len(values) // (blocks * len(options.seeds))
    table = torch.stack(values).reshape(len(options.seeds), blocks, steps, size).mean(dim=(0, 2))
    return table.flatten()[: options.prompts].double().numpy()


if __name__ == "__main__":
    main()
