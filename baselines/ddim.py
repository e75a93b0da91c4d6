"""DDIM: deterministic sampling of the same model.

Card
    Paper      Song et al. 2021, arXiv:2010.02502
    Defaults   stochasticity 0 (the paper's eta); integer-stride spacing ("ddimN"), which starts below the last step
    Cost       one denoiser forward a step
    Presets    `paper` and `official-code` change nothing: both take stochasticity 0, the default
    Departures the denoised estimate is clipped to [-1, 1] and the noise re-derived from it, as ADM's code does
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from minoritybench.diffusion.step import Method
from minoritybench.errors import BadInputError

BIBTEX = """\
@inproceedings{song2021denoising,
  title = {Denoising Diffusion Implicit Models},
  author = {Song, Jiaming and Meng, Chenlin and Ermon, Stefano},
  booktitle = {International Conference on Learning Representations},
  year = {2021},
  eprint = {2010.02502}
}
"""


@dataclass(frozen=True)
class Ddim(Method):
    """`stochasticity` is the paper's eta: 0 deterministic, 1 close to ancestral sampling."""

    transition: ClassVar[str | None] = "ddim"
    spacing: ClassVar[str] = "ddim"
    stochasticity: float = 0.0

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}, "official-code": {}}

    def __post_init__(self) -> None:
        if not 0.0 <= self.stochasticity <= 1.0:
            raise BadInputError(f"ddim: stochasticity must lie in [0, 1], not {self.stochasticity}")
