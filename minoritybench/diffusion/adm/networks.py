"""ADM's U-Net and the noise-conditional classifier, in our own code; both load the published state dicts unchanged.

Reference: Dhariwal and Nichol 2021, arXiv:2105.05233. Differs: gradient checkpointing is PyTorch's non-reentrant one,
so that gradients flow to the input with every weight frozen; the published one differentiates by the weights, too, and
fails. It changes memory and time, not results.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minoritybench.diffusion.adm.blocks import (
    AttentionBlock,
    AttentionPool,
    Norm,
    ResidualBlock,
    Stage,
    time_embedding,
    timestep_features,
    zeroed,
)
from minoritybench.diffusion.adm.config import AdmConfig, ClassifierConfig, TrunkConfig


class _Trunk(nn.Module):
    """Input and middle blocks, and what runs stages. `checkpointing` recomputes each stage in the backward pass instead
    of keeping its inner activations."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.checkpointing = False
        self.time_embed = time_embedding(config)
        self.input_blocks = nn.ModuleList([Stage([nn.Conv2d(config.in_channels, config.channels, 3, padding=1)])])
        self.stage_widths = [config.channels]
        width = config.channels
        for level, wide in enumerate(config.widths):
            for _ in range(config.res_blocks):
                self._add_input(Stage([ResidualBlock(config, width, wide), *_attention(config, level, wide)]), wide)
                width = wide
            if level < len(config.widths) - 1:
                self._add_input(Stage([ResidualBlock(config, width, width, "down")]), width)
        self.middle_block = Stage(
            [
                ResidualBlock(config, width, width),
                AttentionBlock(width, config.heads_of(width), config.attention_order),
                ResidualBlock(config, width, width),
            ]
        )

    def _add_input(self, stage: Stage, width: int) -> None:
        self.input_blocks.append(stage)
        self.stage_widths.append(width)

    def convert_torso(self, dtype: torch.dtype) -> None:
        """Convolutions of all stages to `dtype`; norms, embeddings and the output stay as they are."""
        for stage in self._stages():
            for layer in stage.modules():
                if isinstance(layer, nn.Conv1d | nn.Conv2d):
                    layer.to(dtype)

    def _stages(self) -> Iterable[nn.Module]:
        return [*self.input_blocks, self.middle_block]

    def _time(self, timesteps: Tensor) -> Tensor:
        weight = next(self.time_embed.parameters())
        embedded: Tensor = self.time_embed(timestep_features(timesteps, weight.shape[1]).to(weight.dtype))
        return embedded

    def _run(self, stage: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            recomputed: Tensor = checkpoint(stage, x, embedding, use_reentrant=False)
            return recomputed
        return stage(x, embedding)


def _attention(config: TrunkConfig, level: int, width: int) -> list[AttentionBlock]:
    if config.side(level) not in config.attention_sizes:
        return []
    return [AttentionBlock(width, config.heads_of(width), config.attention_order)]


class AdmUNet(_Trunk):
    """Noise prediction `(B, out_channels, H, W)` from `x (B, in_channels, H, W)`, original timesteps int64 `(B,)` and,
    for a class-conditional network, labels int64 `(B,)`."""

    def __init__(self, config: AdmConfig) -> None:
        super().__init__(config)
        self.config = config
        self.label_emb = None if config.num_classes is None else nn.Embedding(config.num_classes, config.embedding)
        self.output_blocks = nn.ModuleList()
        skips = list(self.stage_widths)
        width = config.widths[-1]
        for level, wide in reversed(list(enumerate(config.widths))):
            for block in range(config.res_blocks + 1):
                layers: list[nn.Module] = [ResidualBlock(config, width + skips.pop(), wide)]
                layers += _attention(config, level, wide)
                if level > 0 and block == config.res_blocks:
                    layers.append(ResidualBlock(config, wide, wide, "up"))
                self.output_blocks.append(Stage(layers))
                width = wide
        self.out = nn.Sequential(Norm(width), nn.SiLU(), zeroed(nn.Conv2d(width, config.out_channels, 3, padding=1)))

    def _stages(self) -> Iterable[nn.Module]:
        return [*super()._stages(), *self.output_blocks]

    def forward(self, x: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        """The prediction, in the precision of the output layer."""
        embedding = self._time(timesteps)
        if self.label_emb is not None:
            embedding = embedding + self.label_emb(labels)
        skips = []
        for stage in self.input_blocks:
            x = self._run(stage, x, embedding)
            skips.append(x)
        x = self._run(self.middle_block, x, embedding)
        for stage in self.output_blocks:
            x = self._run(stage, torch.cat([x, skips.pop()], dim=1), embedding)
        predicted: Tensor = self.out(x)
        return predicted


class NoisyClassifier(_Trunk):
    """Logits `(B, outputs)` of noisy `x (B, in_channels, H, W)` at original timesteps int64 `(B,)`.

    `features` gives what the head sees. A head on another classifier's features is one of these with their shape as its
    input: `ClassifierConfig(image_size=8, in_channels=512, channel_mult=(1,), ...)`.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__(config)
        self.config = config
        width, side = config.widths[-1], config.side(len(config.widths) - 1)
        self.out = nn.Sequential(
            Norm(width), nn.SiLU(), AttentionPool(side, width, config.heads_of(width), config.outputs)
        )

    def features(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """`(B, C, h, w)` after the middle block; `(B, 512, 8, 8)` in the published classifiers."""
        embedding = self._time(timesteps)
        for stage in self.input_blocks:
            x = self._run(stage, x, embedding)
        return self._run(self.middle_block, x, embedding)

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """Logits, in the precision of the head."""
        logits: Tensor = self.out(self.features(x, timesteps))
        return logits
