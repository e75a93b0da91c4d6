"""The embedded digits DDPM as a backend."""

from __future__ import annotations

from torch import Tensor

from minoritybench.embedded.models import TIMESTEPS, UNCONDITIONAL, DigitsDenoiser
from minoritybench.embedded.weights import load_module, weights_path
from minoritybench.errors import BadInputError
from minoritybench.store import sha256_file


class DigitsDdpm:
    """The embedded DDPM: 8x8 greyscale, cosine schedule, unconditional or conditioned on labels 0-9."""

    schedule = "cosine"
    train_steps = TIMESTEPS
    state_shape = (1, 8, 8)
    num_classes = UNCONDITIONAL
    micro_batch = 64
    threads = 1
    dtype = "float32"

    def __init__(self, name: str, device: str = "cpu") -> None:
        module = load_module(name)
        if not isinstance(module, DigitsDenoiser):
            raise BadInputError(f"{name!r} is not a generator")
        self.name = name
        self.weights_sha256 = sha256_file(weights_path(name))
        self._module = module.to(device)

    def predict(self, x_t: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        """Predicted noise `(B, 1, 8, 8)`; the transition uses the posterior variance."""
        output: Tensor = self._module(x_t, timestep, labels)
        return output

    def decode(self, x0: Tensor) -> Tensor:
        """`[-1, 1]` greyscale `(B, 1, 8, 8)` to nominal `[0, 1]` RGB `(B, 3, 8, 8)`."""
        return ((x0 + 1) / 2).expand(-1, 3, -1, -1)


def load_digits_ddpm(name: str, *, device: str = "cpu", dtype: str = "float32", compile: bool = False) -> DigitsDdpm:
    """The shipped model, or the one in the folder that MINORITYBENCH_EMBEDDED_WEIGHTS names."""
    if compile:
        raise BadInputError(f"--compile: {name} is too small to gain, and its images are promised bit for bit")
    if dtype != DigitsDdpm.dtype:
        raise BadInputError(f"--dtype {dtype}: {name} runs in {DigitsDdpm.dtype} only")
    return DigitsDdpm(name, device)
