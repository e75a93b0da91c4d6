"""Boost-and-Skip: start from noise of a larger standard deviation and skip the first steps.

Card
    Paper      Boost-and-Skip, arXiv:2502.06516 (ICML 2025)
    Defaults   gamma 4.0, skip 3 of 250 steps (CelebA 64, cosine schedule); ImageNet 64: gamma 2.5, skip 3
    Digits     gamma 4.0, skip 2 of 50 steps (4 %)
    Cost       one denoiser forward a step, less the skipped steps
    Presets    `paper` and `official-code` change nothing: the two agree, and what they use are the defaults and the
               benchmarks' settings
    Departures none. gamma does not carry over between schedules: a cosine chain erases an unskipped boost in one step
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from minoritybench.diffusion.loop import INITIAL_STREAM
from minoritybench.diffusion.schedule import Schedule
from minoritybench.diffusion.step import Method
from minoritybench.errors import BadInputError
from minoritybench.rng import ImageStreams

BIBTEX = """\
@inproceedings{um2025boost,
  title = {Boost-and-Skip: A Simple Guidance-Free Diffusion for Minority Generation},
  author = {Um, Soobin and Kim, Beomsu and Ye, Jong Chul},
  booktitle = {International Conference on Machine Learning},
  year = {2025},
  eprint = {2502.06516}
}
"""


@dataclass(frozen=True)
class BoostAndSkip(Method):
    """`gamma` multiplies the standard deviation of the initial noise; `skip` respaced steps are left out.

    The noise boosted is the one plain sampling would start from, so samples pair up by seed.
    """

    gamma: float = 4.0
    skip: int = 3

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}, "official-code": {}}

    def __post_init__(self) -> None:
        if self.gamma <= 0 or self.skip < 0:
            raise BadInputError(f"bns: gamma must be positive and skip at least 0, not {self.gamma} and {self.skip}")

    def initial(self, streams: ImageStreams, shape: tuple[int, ...], schedule: Schedule) -> tuple[Tensor, int]:
        """`gamma * N(0, I)` as the state at index S - 1 - skip."""
        if self.skip >= schedule.steps:
            raise BadInputError(f"bns: skip={self.skip} leaves none of the {schedule.steps} steps")
        return self.gamma * streams.normal(shape, INITIAL_STREAM), schedule.steps - 1 - self.skip
