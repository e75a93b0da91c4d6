"""Pixel-space models in the format of diffusers' DDPMPipeline: `diffusers:OWNER/NAME` or `diffusers:path/to/folder`.

Read from a folder or from the hub's cache; nothing is downloaded. Steps, clipping and spacing are the benchmark's, as
for every generator; what belongs to the model is taken from its scheduler: the noise schedule, and the variance of the
transition (`fixed_small`, `fixed_large` or learned).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minoritybench.diffusion.diffusers_files import WEIGHTS, cached_snapshot, open_network, public_name
from minoritybench.diffusion.schedule import BETAS
from minoritybench.errors import BadInputError, MissingAssetError
from minoritybench.store import digest_of, read_json, sha256_file

_FAMILY = "diffusers:"
_NETWORK = "UNet2DModel"
_SCHEDULES = {"linear": "linear", "squaredcos_cap_v2": "cosine"}
_LARGEST_PIXELS = 16 * 64 * 64
_DTYPES = ("float32", "bfloat16")
_DEFAULTS = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "variance_type": "fixed_small",
    "prediction_type": "epsilon",
    "thresholding": False,
    "rescale_betas_zero_snr": False,
}
"""What DDPMScheduler takes for a field that a configuration leaves out."""


@dataclass(frozen=True)
class _Files:
    """Where a model's parts lie: the folder with the network's config and weights, and the scheduler's config."""

    network: Path
    weights: Path
    scheduler: Path

    def digest(self) -> str:
        """Of the weights and of both configurations: each of them changes the images."""
        parts = (self.weights, self.network / "config.json", self.scheduler)
        return digest_of({path.name: sha256_file(path) for path in parts})


class DiffusersPixelModel:
    """A UNet2DModel in `[-1, 1]`, greyscale or RGB, frozen.

    `weights_sha256` is the digest over the weight file and both configurations. bfloat16 runs under autocast:
    convolutions, linear layers and attention in it, norms in float32.
    """

    threads: int | None = None

    def __init__(
        self, name: str, network: Any, scheduler: dict[str, Any], weights_sha256: str, device: str, dtype: str
    ) -> None:
        self.name, self.weights_sha256, self.dtype = name, weights_sha256, dtype
        self.schedule, self.train_steps = _schedule(name, scheduler)
        size = network.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        channels = network.config.in_channels
        self.state_shape: tuple[int, ...] = (channels, height, width)
        self.num_classes = network.config.num_class_embeds
        self.requires_labels = self.num_classes is not None
        self.micro_batch = max(1, min(16, _LARGEST_PIXELS // (height * width)))
        self._large_variance = _large_variance(name, scheduler, channels, network.config.out_channels)
        self._device_type = torch.device(device).type
        self._network = network.eval().requires_grad_(False).to(device)

    def predict(self, x_t: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        """Predicted noise, float32 `(B, C, H, W)`, or `(B, 2C, H, W)` with a variance fraction, which is 1 for models
        of the larger fixed variance; differentiable in `x_t`."""
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self.dtype == "bfloat16"):
            output: Tensor = self._network(x_t, timestep, class_labels=labels, return_dict=False)[0]
        output = output.float()
        return torch.cat([output, torch.ones_like(output)], dim=1) if self._large_variance else output

    def decode(self, x0: Tensor) -> Tensor:
        """`[-1, 1]` to nominal `[0, 1]` RGB."""
        return ((x0 + 1) / 2).expand(-1, 3, -1, -1)


def load_diffusers_pixel(
    name: str, *, device: str = "cpu", dtype: str = "float32", compile: bool = False
) -> DiffusersPixelModel:
    """`diffusers:OWNER/NAME` from the hub's cache or `diffusers:FOLDER`. Errors: absent files exit 4; what is no
    noise-predicting pixel U-Net of a known schedule, or has weights that do not fit, exits 2."""
    if dtype not in _DTYPES:
        raise BadInputError(f"--dtype {dtype}: {name} runs in {' or '.join(_DTYPES)}")
    files = find_files(name)
    network = open_network(name, _NETWORK, files.weights)
    told = public_name(name, _FAMILY)
    model = DiffusersPixelModel(told, network, read_json(files.scheduler), files.digest(), device, dtype)
    if compile:
        model._network = torch.compile(model._network)
    return model


def find_files(name: str) -> _Files:
    """The files of a pixel model, not opened; exit 4 where some are absent."""
    place = name.removeprefix(_FAMILY)
    folder = Path(place) if Path(place).is_dir() else cached_snapshot(place)
    if folder is None:
        raise MissingAssetError(
            f"{name}: no folder {place!r} here and no such model in the hub's cache; name a folder, or an OWNER/NAME"
            f" fetched with `hf download {place}`"
        )
    network = folder / "unet" if (folder / "unet").is_dir() else folder
    scheduler = folder / "scheduler" if (folder / "scheduler").is_dir() else folder
    weights = next((network / file for file in WEIGHTS if (network / file).is_file()), None)
    files = _Files(network, weights or network / WEIGHTS[0], scheduler / "scheduler_config.json")
    absent = [path for path in (network / "config.json", files.weights, files.scheduler) if not path.is_file()]
    if absent:
        raise MissingAssetError(
            f"{name}: {absent[0]} is not there; a pixel model is a folder with unet/ and scheduler/, or with the files"
            " of both, as DDPMPipeline.save_pretrained leaves it"
        )
    return files


def _schedule(name: str, scheduler: dict[str, Any]) -> tuple[str, int]:
    """Our name of the noise schedule, and its length."""
    facts = {**_DEFAULTS, **scheduler}
    kind, steps = facts["beta_schedule"], int(facts["num_train_timesteps"])
    odd = [key for key in ("thresholding", "rescale_betas_zero_snr", "trained_betas") if facts[key]]
    if facts["prediction_type"] != "epsilon":
        odd.append(f"prediction_type {facts['prediction_type']!r}")
    if kind not in _SCHEDULES:
        odd.append(f"beta_schedule {kind!r}")
    elif kind == "linear" and not np.allclose(
        np.linspace(facts["beta_start"], facts["beta_end"], steps), BETAS["linear"](steps), rtol=1e-6
    ):
        odd.append(f"betas from {facts['beta_start']} to {facts['beta_end']} in {steps} steps")
    if odd:
        raise BadInputError(
            f"{name}: its scheduler has {', '.join(odd)}; known are noise prediction and the linear (1e-4 to 0.02 over"
            " 1000 steps) and cosine schedules"
        )
    return _SCHEDULES[kind], steps


def _large_variance(name: str, scheduler: dict[str, Any], inner: int, outer: int) -> bool:
    """Whether transitions use beta rather than the posterior variance; learned variances come with the output."""
    kind = scheduler.get("variance_type", _DEFAULTS["variance_type"])
    learned = outer == 2 * inner
    fits = kind == "learned_range" if learned else kind.removesuffix("_log") in ("fixed_small", "fixed_large")
    if not fits or outer not in (inner, 2 * inner):
        raise BadInputError(f"{name}: variance_type {kind!r} with {inner} channels in and {outer} out is not known")
    return not learned and kind.startswith("fixed_large")
