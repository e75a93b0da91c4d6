"""ImageNet 256 in two stages: a 64 px model that methods guide, then an upsampler that nothing guides.

Reference: Dhariwal and Nichol 2021, arXiv:2105.05233, and the published recipes of SGMS and Boost-and-Skip. The 64 px
images are quantised to 8 bits by truncation, as the published code stores them between its two scripts, and brought
back to [-1, 1]; the upsampler sees them enlarged bilinearly (no antialiasing, corners not aligned) beside x_t, with the
same labels, in an ancestral chain of 250 steps on its own noise.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from minoritybench.data.resize import resize
from minoritybench.diffusion.adm.model import AdmModel, find_weights, load_adm
from minoritybench.diffusion.adm.presets import UPSAMPLER
from minoritybench.diffusion.loop import run_chain
from minoritybench.diffusion.schedule import make_schedule
from minoritybench.diffusion.step import Method
from minoritybench.errors import all_or_absent, both_or_absent
from minoritybench.rng import ImageStreams
from minoritybench.store import digest_of

STREAM_PREFIX = "upsampler-"
_BASE = "adm-imagenet64"
UPSAMPLER_STEPS = "250"


@dataclass(frozen=True)
class UpsamplerStreams(ImageStreams):
    """The same images' streams under names of their own: the second stage repeats no noise of the first."""

    def generator(self, index: int, stream: str, step: int) -> torch.Generator:
        """The generator of one image, stream and step."""
        return super().generator(index, STREAM_PREFIX + stream, step)


class _Upsampling:
    """The upsampler at given enlarged images `[-1, 1]`, `(B, 3, size, size)`, as a model of its own."""

    def __init__(self, upsampler: AdmModel, enlarged: Tensor) -> None:
        self._upsampler, self._enlarged = upsampler, enlarged
        self.name, self.weights_sha256, self.dtype = upsampler.name, upsampler.weights_sha256, upsampler.dtype
        self.schedule, self.train_steps = upsampler.schedule, upsampler.train_steps
        self.state_shape, self.num_classes = upsampler.state_shape, upsampler.num_classes
        self.micro_batch, self.threads = upsampler.micro_batch, upsampler.threads
        self.decode = upsampler.decode

    def predict(self, x_t: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        """The upsampler's prediction at x_t beside the enlarged images."""
        return self._upsampler.predict(torch.cat([x_t, self._enlarged], dim=1), timestep, labels)


class AdmCascade:
    """`base` is what the loop and the methods see; `finish` enlarges its images."""

    def __init__(self, name: str, base: AdmModel, upsampler: AdmModel, steps: str = UPSAMPLER_STEPS) -> None:
        if base.micro_batch % upsampler.micro_batch:  # else a row's result would depend on its place in the batch
            raise ValueError(f"micro-batches {base.micro_batch} and {upsampler.micro_batch} do not divide")
        self.name, self.base, self.upsampler = name, base, upsampler
        self.weights_sha256 = digest_of({"base": base.weights_sha256, "upsampler": upsampler.weights_sha256})
        self.schedule, self.train_steps, self.dtype = base.schedule, base.train_steps, base.dtype
        self.state_shape, self.micro_batch, self.threads = base.state_shape, base.micro_batch, base.threads
        self.num_classes, self.requires_labels = base.num_classes, base.requires_labels
        self.predict, self.decode = base.predict, base.decode
        self._chain = make_schedule(upsampler.schedule, steps, upsampler.train_steps)

    def finish(self, images: Tensor, labels: Tensor | None, streams: ImageStreams, passes: Counter[str]) -> Tensor:
        """Decoded base images `[0, 1]` `(B, 3, 64, 64)` to `(B, 3, 256, 256)`; its forwards are counted as
        `upsampler_forward`, each image's once."""
        size, rows = self.upsampler.state_shape[-1], self.upsampler.micro_batch
        enlarged = resize(quantised(images) * 2 - 1, f"author-bilinear-{size}")
        outputs = []
        for start in range(0, len(enlarged), rows):
            block = slice(start, start + rows)
            own = UpsamplerStreams(streams.seed, streams.indices[block])
            state, spent = run_chain(
                _Upsampling(self.upsampler, enlarged[block]),
                self._chain,
                Method(),
                own,
                None if labels is None else labels[block],
                device=str(images.device),
            )
            outputs.append(self.upsampler.decode(state))
        passes["upsampler_forward"] += spent["denoiser_forward"]
        return torch.cat(outputs)


def quantised(images: Tensor) -> Tensor:
    """Nominal `[0, 1]` to the 8-bit levels below, as `[0, 1]`: clamped, then truncated as the published code does."""
    return (images * 255).clamp(0, 255).floor() / 255


def find_both(name: str) -> None:
    """Look for the checkpoints of both models without opening them; those that are not here exit 4, in one line."""
    all_or_absent(lambda: find_weights(_BASE), lambda: find_weights(UPSAMPLER))


def load_cascade(name: str, *, device: str = "cpu", dtype: str = "float32", compile: bool = False) -> AdmCascade:
    """`adm-imagenet256-cascade`: the class-conditional 64 px model, then the upsampler. Errors: absent weights, of both
    in one line, exit 4."""
    base, upsampler = both_or_absent(
        lambda: load_adm(_BASE, device=device, dtype=dtype, compile=compile),
        lambda: load_adm(UPSAMPLER, device=device, dtype=dtype, compile=compile),
    )
    return AdmCascade(name, base, upsampler)
