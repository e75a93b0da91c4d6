"""What a latent pipeline's scheduler configuration says of its training chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from minoritybench.diffusion.schedule import (
    Schedule,
    Table,
    leading_timesteps,
    respaced,
    scaled_linear_betas,
    trailing_timesteps,
)
from minoritybench.errors import BadInputError
from minoritybench.records import TextSpec

_DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "thresholding": False,
    "rescale_betas_zero_snr": False,
}
"""What DDIMScheduler takes for a field that a configuration leaves out."""
_PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class TrainingChain:
    """Betas `(T,)` of the chain and their name; whether the network predicts v; the offset of leading timesteps; the
    cumulative product at which diffusers' pipelines end."""

    kind: str
    betas: Table
    predicts_v: bool
    offset: int
    diffusers_end: float

    def schedule(self, steps: int, text: TextSpec) -> Schedule:
        """The respaced chain of a text-to-image run."""
        length = len(self.betas)
        if text.spacing == "leading":
            timesteps = leading_timesteps(length, steps, self.offset)
        else:
            timesteps = trailing_timesteps(length, steps)
        end = 1.0 if text.ending == "x0" else self.diffusers_end
        return respaced(self.betas, timesteps, end=end, shift=text.alpha_shift)

    def alphas_cumprod(self) -> torch.Tensor:
        """By original timestep, float64 `(T,)`."""
        return torch.from_numpy(np.cumprod(1.0 - self.betas))


def read_chain(name: str, scheduler: dict[str, Any]) -> TrainingChain:
    """The chain of a scheduler_config.json, whichever scheduler it is of. Error: a chain or prediction that our loop
    does not run is one line (exit 2)."""
    facts = {**_DEFAULTS, **scheduler}
    try:
        length, offset = int(facts["num_train_timesteps"]), int(facts["steps_offset"])
        first, last = float(facts["beta_start"]), float(facts["beta_end"])
    except (TypeError, ValueError) as error:
        raise BadInputError(f"{name}: its scheduler_config.json holds no numbers where it should: {error}") from error
    kind = facts["beta_schedule"]
    odd = [key for key in ("thresholding", "rescale_betas_zero_snr", "trained_betas") if facts[key]]
    if facts["prediction_type"] not in _PREDICTIONS:
        odd.append(f"prediction_type {facts['prediction_type']!r}")
    if kind not in ("scaled_linear", "linear"):
        odd.append(f"beta_schedule {kind!r}")
    if odd:
        raise BadInputError(
            f"{name}: its scheduler has {', '.join(odd)}; known are noise and v prediction over scaled_linear or linear"
            " betas"
        )
    betas = scaled_linear_betas(length, first, last) if kind == "scaled_linear" else np.linspace(first, last, length)
    return TrainingChain(
        kind=kind,
        betas=betas,
        predicts_v=facts["prediction_type"] == "v_prediction",
        offset=offset,
        diffusers_end=1.0 if facts["set_alpha_to_one"] else float(1.0 - betas[0]),
    )
