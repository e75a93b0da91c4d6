"""Shared: digits as tensors, one torch thread."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from minoritybench.embedded.data import load_split


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> Tensor:
    """The 1,500 training digits, float32 (N, 3, 8, 8) in [0, 1]."""
    images = torch.from_numpy(load_split("train").images).float() / 255
    return images.unsqueeze(1).repeat(1, 3, 1, 1)
