"""What fixes the shape, and the reading, of an ADM network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from minoritybench.errors import BadInputError

NORM_GROUPS = 32

AttentionOrder = Literal["new", "old"]
"""How the 3C channels of qkv divide: `new` into q, k, v and each of them into heads; `old` into heads first. Both load
any checkpoint, one of them makes garbage of it."""


@dataclass(frozen=True, kw_only=True)
class TrunkConfig:
    """The encoder half that U-Nets and classifiers share.

    `image_size` pixels a side of the input; `channels` width of the first level, times `channel_mult` at each level, of
    `res_blocks` residual blocks; attention where the side is in `attention_sizes`, with `heads` heads or else with
    `head_channels` channels a head; `dropout` acts in training mode only. Errors: sizes that do not divide exit 2.
    """

    image_size: int
    in_channels: int = 3
    channels: int = 192
    res_blocks: int = 3
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    attention_sizes: tuple[int, ...] = (32, 16, 8)
    head_channels: int = 64
    heads: int | None = None
    attention_order: AttentionOrder = "new"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.image_size % 2 ** (len(self.channel_mult) - 1):
            raise BadInputError(f"an image of {self.image_size} px cannot be halved {len(self.channel_mult) - 1} times")
        if self.channels % NORM_GROUPS:
            raise BadInputError(f"channels={self.channels} is not a multiple of the {NORM_GROUPS} groups of its norms")
        for level, width in enumerate(self.widths):
            attends = self.side(level) in self.attention_sizes or level == len(self.widths) - 1
            divisor = self.head_channels if self.heads is None else self.heads
            if attends and width % divisor:
                raise BadInputError(f"attention over {width} channels does not divide by {divisor}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the largest image first."""
        return tuple(self.channels * factor for factor in self.channel_mult)

    @property
    def embedding(self) -> int:
        """Width of the time embedding."""
        return 4 * self.channels

    def side(self, level: int) -> int:
        """Pixels a side at a level."""
        return self.image_size // 2**level

    def heads_of(self, width: int) -> int:
        """Attention heads over `width` channels."""
        return width // self.head_channels if self.heads is None else self.heads


@dataclass(frozen=True, kw_only=True)
class AdmConfig(TrunkConfig):
    """A U-Net: `out_channels` 6 predicts noise and learned-range variance of RGB; with `num_classes` None it takes no
    labels; `in_channels` 6 takes an enlarged image beside x_t (the upsampler)."""

    out_channels: int = 6
    num_classes: int | None = None


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(TrunkConfig):
    """A noise-conditional classifier with `outputs` logits; `res_blocks` is the published `depth`."""

    channels: int = 128
    res_blocks: int = 4
    attention_order: AttentionOrder = "old"
    outputs: int = 1000
