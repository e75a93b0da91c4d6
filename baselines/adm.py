"""Plain ancestral sampling: the reference point of every comparison.

Card
    Paper      Ho et al. 2020, arXiv:2006.11239; Dhariwal and Nichol 2021 (ADM), arXiv:2105.05233
    Defaults   none; the benchmark fixes the number of steps
    Cost       one denoiser forward a step
    Presets    `paper` and `official-code` change nothing: there is no setting in which the two could differ
    Departures pixels are rounded to the nearest of 256 levels, where the published code truncates
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from minoritybench.diffusion.step import Method

BIBTEX = """\
@inproceedings{ho2020denoising,
  title = {Denoising Diffusion Probabilistic Models},
  author = {Ho, Jonathan and Jain, Ajay and Abbeel, Pieter},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020},
  eprint = {2006.11239}
}
@inproceedings{dhariwal2021diffusion,
  title = {Diffusion Models Beat {GANs} on Image Synthesis},
  author = {Dhariwal, Prafulla and Nichol, Alexander},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2021},
  eprint = {2105.05233}
}
"""


@dataclass(frozen=True)
class Adm(Method):
    """Ancestral DDPM sampling, no hooks."""

    transition: ClassVar[str | None] = "ancestral"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}, "official-code": {}}
