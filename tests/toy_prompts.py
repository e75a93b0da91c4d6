"""A float64 text-to-image network in a few lines, for tests of what acts on prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minoritybench.diffusion.schedule import Schedule, respaced, scaled_linear_betas, trailing_timesteps
from minoritybench.diffusion.step import StepContext
from minoritybench.diffusion.text import TextCondition
from minoritybench.perceptual import euclidean
from minoritybench.rng import ImageStreams

BETAS = scaled_linear_betas(1000, 0.00085, 0.012)
CHAIN = respaced(BETAS, trailing_timesteps(1000, 4))
PROMPTS = ("nine", "seventeen")
SHAPE = (1, 3, 3)


class TinyText(nn.Module):
    """Three tokens of width 4 a prompt and a pooled vector of 5; eps mixes the state with all of them. A learned token
    takes the place of the last."""

    name, weights_sha256, dtype, schedule, train_steps = "tiny-text", "", "float64", "", 1000
    state_shape: tuple[int, ...] = SHAPE
    num_classes = None
    micro_batch, threads = 2, 1
    transition, clip_x0 = "ddim", False

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.state, self.text, self.pool = (
            nn.Parameter(torch.randn(9, width, generator=generator, dtype=torch.float64) / 3, requires_grad=False)
            for width in (9, 12, 5)
        )
        self.seen: list[int] = []

    def encode_prompts(self, prompts: Sequence[str], guidance_scale: float) -> TextCondition:
        rows = [torch.Generator().manual_seed(sum(text.encode())) for text in prompts]
        drawn = torch.stack([torch.randn(17, generator=row, dtype=torch.float64) for row in rows])
        drawn = drawn * torch.tensor([[len(text) / 12] for text in prompts], dtype=torch.float64)
        embeds, pooled = drawn[:, :12].view(-1, 3, 4), drawn[:, 12:]
        empty = TextCondition(("",) * len(prompts), torch.zeros_like(embeds), torch.zeros_like(pooled))
        guided = guidance_scale not in (0.0, 1.0)
        return TextCondition(tuple(prompts), embeds, pooled, None, empty if guided else None, guidance_scale)

    def embed_tokens(self, prompts: Sequence[str], learned: Sequence[Tensor], *, pooled: str = "eos") -> TextCondition:
        plain = self.encode_prompts(prompts, 1.0)
        embeds = torch.cat([plain.embeds[:, :2], torch.tanh(learned[0])[:, None]], dim=1)
        return TextCondition(plain.prompts, embeds, plain.pooled)

    def token_start(self, word: str) -> list[Tensor]:
        return [torch.full((4,), 0.0 if word == "mean" else 1.0, dtype=torch.float64)]

    def predict(self, x_t: Tensor, timestep: Tensor, labels: Any) -> Tensor:
        self.seen.append(int(timestep[0]))
        drive = x_t.flatten(1) @ self.state.T + labels.embeds.flatten(1) @ self.text.T + labels.pooled @ self.pool.T
        eps = torch.tanh(drive + timestep.to(drive)[:, None] / 1000).view_as(x_t)
        if labels.unconditional is None:
            return eps
        clean = self.predict(x_t, timestep, labels.unconditional)
        return clean + labels.guidance_scale * (eps - clean)

    def decode(self, x0: Tensor) -> Tensor:
        return (x0 + 1) / 2


def text_step(
    index: int, *, chain: Schedule = CHAIN, scale: float = 1.0, model: Any = None, images: Sequence[int] = (0, 1)
) -> StepContext:
    """A step as `condition` sees it."""
    model = model or TinyText()
    streams = ImageStreams(0, images)
    labels = model.encode_prompts([PROMPTS[i % 2] for i in images], scale)
    x_t = streams.normal(SHAPE, "state").double()
    return StepContext(x_t, index, chain, labels, model, streams, {"distance:l2": euclidean}, Counter())
