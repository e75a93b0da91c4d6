"""Does each method move what it says it moves? Its own objective on its samples against plain ancestral sampling's.

    python benchmarks/objectives.py [--n 300] [--seeds 11 12 13]

Samples of every method on the digits are drawn at the settings of its board row, with and without class labels, and
their objective (the method's `objective` hook: larger is what its paper claims) is compared with that of the `adm`
samples that share their noise, image by image. Prints a markdown table: mean difference over seeds with its 95 %
t-interval, the paired t over all images, and the share of images that differ at all. Samples are kept under `--out`.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import minoritybench
from minoritybench.diffusion.schedule import make_schedule
from minoritybench.diffusion.step import StepContext
from minoritybench.errors import BadInputError
from minoritybench.metrics import t_interval
from minoritybench.microbatch import pad_rows
from minoritybench.registry import entries
from minoritybench.rng import ImageStreams
from minoritybench.sample_job import Sampler, SampleRequest, open_sampler

BASELINE = "adm"


@dataclass(frozen=True)
class Drawn:
    """Samples of one method: states in diffusion space `(N, *state_shape)`, labels or None, and the seed of each."""

    states: Tensor
    labels: Tensor | None
    seeds: NDArray[np.int64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=300, help="samples a seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--benchmark", default="digits")
    parser.add_argument("--out", type=Path, default=Path("runs/objectives"))
    options = parser.parse_args()
    print("| method | labels | objective | adm | method | difference, 95 % over seeds | paired t | images changed |")
    print("|---|---|---|---:|---:|---:|---:|---:|")
    for conditional in (False, True):
        plain = drawn(BASELINE, conditional, options)
        for name in entries("methods"):
            try:
                sampler = open_sampler(request(name, conditional, options))
            except BadInputError as error:  # prompts where there are none, or images where there are
                print(f"{name}: left out: {error}", file=sys.stderr)
                continue
            if not hasattr(sampler.method.instance, "objective"):
                continue
            for row in compared(sampler, plain, drawn(name, conditional, options)):
                print(f"| {name} | {'yes' if conditional else 'no'} | " + " | ".join(row) + " |", flush=True)


def request(name: str, conditional: bool, options: Any) -> SampleRequest:
    return SampleRequest(
        name, options.benchmark, n=options.n, seeds=tuple(options.seeds), class_conditional=conditional
    )


def drawn(name: str, conditional: bool, options: Any) -> Drawn:
    """Samples of a method, drawn or read back."""
    out = options.out / f"{name}{'-labels' if conditional else ''}"
    outcome = minoritybench.sample(
        name,
        out,
        benchmark=options.benchmark,
        n=options.n,
        seeds=tuple(options.seeds),
        class_conditional=conditional,
        force=True,
    )
    pixels = np.stack([np.asarray(Image.open(out / row["file"]))[..., :1] for row in outcome.rows])
    states = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    labels = torch.tensor([row["label"] for row in outcome.rows]) if conditional else None
    return Drawn(states, labels, np.array([row["seed"] for row in outcome.rows]))


def compared(sampler: Sampler, plain: Drawn, own: Drawn) -> list[tuple[str, ...]]:
    """One row an objective: means, difference with its interval, paired t, share of changed images."""
    before, after = objectives(sampler, plain), objectives(sampler, own)
    changed = float((plain.states != own.states).flatten(1).any(dim=1).float().mean())
    rows = []
    for name, values in after.items():
        difference = values - before[name]
        by_seed = [float(difference[own.seeds == seed].mean()) for seed in dict.fromkeys(own.seeds.tolist())]
        mean, low, high = t_interval(by_seed)
        spread = "" if low is None or high is None else f" ± {high - mean:.3f}"
        t = mean / (difference.std(ddof=1) / len(difference) ** 0.5)
        rows.append(
            (
                name,
                f"{before[name].mean():.3f}",
                f"{values.mean():.3f}",
                f"{mean:+.3f}{spread}",
                f"{t:+.1f}",
                f"{changed:.0%}",
            )
        )
    return rows


def objectives(sampler: Sampler, samples: Drawn) -> dict[str, NDArray[np.float64]]:
    """The method's objectives of finished samples, seen as denoised estimates at the last step."""
    model = sampler.model
    schedule = make_schedule(model.schedule, sampler.spacing, model.train_steps)
    resources = {name: need.value for name, need in sampler.needs.items()}
    size, found = model.micro_batch, []
    for start in range(0, len(samples.states), size):
        states = samples.states[start : start + size]
        labels = None if samples.labels is None else pad_rows(samples.labels[start : start + size], size)
        streams = ImageStreams(0, range(start, start + size))
        step = StepContext(pad_rows(states, size), 0, schedule, labels, model, streams, resources, Counter())
        step.x0_hat = step.x_t
        values = sampler.method.instance.objective(step)
        found.append({name: value[: len(states)].double().numpy() for name, value in values.items()})
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


if __name__ == "__main__":
    main()
