"""Which rough products `minoritybench.metrics.pairwise` uses, chosen by a test and not by processor and data."""

from __future__ import annotations

import pytest

from minoritybench.metrics import pairwise


def choose_products(monkeypatch: pytest.MonkeyPatch, coarse: bool) -> None:
    """bfloat16 products whatever the processor and the data, or float32 ones."""
    monkeypatch.setattr(pairwise, "has_matrix_units", lambda: coarse)
    monkeypatch.setattr(pairwise, "_resolves", lambda points: True)
    monkeypatch.setattr(pairwise, "_COARSE_FROM", 1)
