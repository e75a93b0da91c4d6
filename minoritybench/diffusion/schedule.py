"""Noise schedules in float64 and their respacing.

Reference: Nichol and Dhariwal 2021 (cosine), Ho et al. 2020 (linear). Index conventions: `timestep` is the original
training index 0..T-1 that networks receive; `index` is the respaced one, counted down S-1..0, by which every table
here is addressed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from minoritybench.errors import BadInputError

Table = NDArray[np.float64]


def linear_betas(train_steps: int = 1000) -> Table:
    """Equally spaced betas from 1e-4 to 0.02, scaled by 1000/T."""
    scale = 1000 / train_steps
    return np.linspace(scale * 1e-4, scale * 0.02, train_steps, dtype=np.float64)


def cosine_betas(train_steps: int = 1000, max_beta: float = 0.999) -> Table:
    """Betas of the squared-cosine cumulative product, capped at `max_beta`."""

    def alpha_bar(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    return np.array(
        [min(1 - alpha_bar((t + 1) / train_steps) / alpha_bar(t / train_steps), max_beta) for t in range(train_steps)]
    )


def scaled_linear_betas(train_steps: int, first: float, last: float) -> Table:
    """Betas whose square roots are equally spaced (Rombach et al. 2022: 0.00085 to 0.012)."""
    return np.linspace(first**0.5, last**0.5, train_steps, dtype=np.float64) ** 2


BETAS = {"linear": linear_betas, "cosine": cosine_betas}


def spaced_timesteps(train_steps: int, spacing: str) -> list[int]:
    """The original timesteps that sampling visits, ascending.

    `"250"`: 250 of them from first to last, fractional stride, rounded half to even. `"10,15"`: equal sections of the
    chain with 10 and 15 steps. `"ddim50"`: the smallest integer stride that yields 50 steps from 0.
    """
    if spacing.startswith("ddim"):
        return _strided(train_steps, _count(spacing.removeprefix("ddim"), spacing), spacing)
    counts = [_count(part, spacing) for part in spacing.split(",")]
    size, remainder = divmod(train_steps, len(counts))
    timesteps: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        length = size + (1 if section < remainder else 0)
        if count > length:
            raise BadInputError(f"spacing {spacing!r}: a section of {length} timesteps cannot give {count} steps")
        stride = 1.0 if count <= 1 else (length - 1) / (count - 1)
        current = 0.0
        for _ in range(count):  # accumulated, not multiplied: the published tables come from the running sum
            timesteps.append(start + round(current))
            current += stride
        start += length
    return sorted(set(timesteps))


def leading_timesteps(train_steps: int, steps: int, offset: int) -> list[int]:
    """Multiples of the integer stride from 0, each moved by `offset`, ascending (diffusers' `leading` spacing)."""
    stride = train_steps // steps if steps <= train_steps else 0
    if stride < 1 or (steps - 1) * stride + offset >= train_steps:
        raise BadInputError(f"{steps} steps: leading spacing has no such chain through {train_steps} timesteps")
    return [index * stride + offset for index in range(steps)]


def trailing_timesteps(train_steps: int, steps: int) -> list[int]:
    """Equal strides that end at the last timestep, ascending (diffusers' `trailing` spacing)."""
    if steps > train_steps:
        raise BadInputError(f"{steps} steps: trailing spacing has no such chain through {train_steps} timesteps")
    stride = train_steps / steps
    return [round(train_steps - (steps - 1 - index) * stride) - 1 for index in range(steps)]


def _strided(train_steps: int, count: int, spacing: str) -> list[int]:
    for stride in range(1, train_steps + 1):
        if len(range(0, train_steps, stride)) == count:
            return list(range(0, train_steps, stride))
    raise BadInputError(f"spacing {spacing!r}: no integer stride through {train_steps} timesteps gives {count} steps")


def _count(text: str, spacing: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise BadInputError(f"spacing {spacing!r} is neither a step count, a comma list of them, nor ddimN")
    return int(text)


@dataclass(frozen=True)
class Schedule:
    """Tables of a respaced chain of `S` steps, float64 `(S,)`, addressed by the respaced index.

    `timesteps[i]` original index; `betas`, `alphas_cumprod`, `alphas_cumprod_prev` (`end` at i=0) as usual;
    `posterior_variance` of q(x_{i-1} | x_i, x_0); `posterior_log_variance` with a zero at i=0 replaced by the value
    at i=1; `x0_coefficient`, `x_t_coefficient` of the posterior mean. `training` is the cumulative product over the
    whole training chain, `(T,)`, addressed by original timestep. `end` is 1 where the chain ends at the denoised
    estimate.
    """

    timesteps: tuple[int, ...]
    betas: Table
    alphas_cumprod: Table
    training: Table
    end: float = 1.0
    alphas_cumprod_prev: Table = field(init=False)
    posterior_variance: Table = field(init=False)
    posterior_log_variance: Table = field(init=False)
    x0_coefficient: Table = field(init=False)
    x_t_coefficient: Table = field(init=False)

    def __post_init__(self) -> None:
        previous = np.append(self.end, self.alphas_cumprod[:-1])
        variance = self.betas * (1 - previous) / (1 - self.alphas_cumprod)
        floored = variance.copy()
        if variance[0] == 0:
            floored[0] = variance[1] if len(variance) > 1 else self.betas[0]
        for name, value in {
            "alphas_cumprod_prev": previous,
            "posterior_variance": variance,
            "posterior_log_variance": np.log(floored),
            "x0_coefficient": self.betas * np.sqrt(previous) / (1 - self.alphas_cumprod),
            "x_t_coefficient": (1 - previous) * np.sqrt(1 - self.betas) / (1 - self.alphas_cumprod),
        }.items():
            object.__setattr__(self, name, value)

    @property
    def steps(self) -> int:
        """Number of sampling steps S."""
        return len(self.timesteps)


def respaced(betas: Table, timesteps: Sequence[int], *, end: float = 1.0, shift: int = 0) -> Schedule:
    """The chain that visits only `timesteps` (ascending) of the training chain with `betas`.

    `end` is the cumulative product it ends at: 1 for the denoised estimate. `shift` = 1 takes the cumulative product of
    the timestep before, as the published text-to-image code does, whose table has a 1 in front.
    """
    training: Table = np.cumprod(1.0 - betas, dtype=np.float64)
    training = np.append(np.ones(shift), training)[: len(betas)]
    cumulative = training[list(timesteps)]
    if cumulative[0] == 1:
        raise BadInputError("alpha_shift=1: the chain visits timestep 0, before which there is no noise")
    previous = np.append(end, cumulative[:-1])
    chain_betas = 1 - cumulative / previous
    return Schedule(tuple(timesteps), betas=chain_betas, alphas_cumprod=cumulative, training=training, end=end)


def make_schedule(name: str, spacing: str, train_steps: int = 1000) -> Schedule:
    """The respaced chain of a named schedule (`linear`, `cosine`)."""
    if name not in BETAS:
        raise BadInputError(f"unknown noise schedule {name!r}; known: {', '.join(BETAS)}")
    return respaced(BETAS[name](train_steps), spaced_timesteps(train_steps, spacing))
