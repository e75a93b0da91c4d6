"""What the sampling loop asks of a generator backend."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class DiffusionModel(Protocol):
    """A noise-predicting network with what is needed to sample from it.

    `name`, `weights_sha256` and `dtype` go into the record; `schedule` (`cosine` or `linear`) and `train_steps` name
    the training chain; `state_shape` is the shape of one `x_t` without the batch axis; `num_classes` is None for an
    unconditional model; `micro_batch` rows are computed a network call, on `threads` torch threads.
    """

    name: str
    weights_sha256: str
    dtype: str
    schedule: str
    train_steps: int
    state_shape: tuple[int, ...]
    num_classes: int | None
    micro_batch: int
    threads: int | None

    # Optional: `requires_labels`, True for a class-conditional network that has no unconditional mode: labels are then
    # drawn whether or not the run asks for them.
    # Optional: `transition`, that of methods which name none (default: ancestral), and `clip_x0`, False where the
    # denoised estimate has no range to be clamped to, as latents have none.
    # Optional: `finish(images, labels, streams, passes) -> images`, a second stage that no method guides: decoded
    # images `[0, 1]` `(B, 3, h, w)` to the final ones `(B, 3, H, W)`, such as a super-resolution chain.

    def predict(self, x_t: Tensor, timestep: Tensor, labels: Any) -> Tensor:
        """Network output at original timesteps, int64 `(B,)`: `(B, C, H, W)` noise, or `(B, 2C, H, W)` noise and
        learned-range variance fraction. Differentiable in `x_t`. `labels` is class labels, int64 `(B,)`, or None, or in
        text-to-image a `minoritybench.diffusion.text.TextCondition`."""
        ...

    def decode(self, x0: Tensor) -> Tensor:
        """Diffusion space to images: nominally `[0, 1]`, `(B, 3, H, W)`, not clamped, differentiable."""
        ...


def requires_labels(model: DiffusionModel) -> bool:
    """Whether the network has no unconditional mode."""
    return bool(getattr(model, "requires_labels", False))
