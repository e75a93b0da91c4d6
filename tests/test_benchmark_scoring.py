"""benchmarks/scoring.py: what the errors in its tables are measured against."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from minoritybench.scoring.spectrum import scores_from_jacobian

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "scoring.py"


def test_errors_are_those_of_the_quantity_a_contender_finds() -> None:
    contender = runpy.run_path(str(BENCHMARK))["Contender"]
    sigma = torch.tensor([4.0, 2.0, 0.5], dtype=torch.float64)
    truth = scores_from_jacobian(torch.diag(sigma).unsqueeze(0), None)
    log = sigma.log()
    assert contender("exact", lambda: 0.0, lambda: float(log.sum()) - 0.25).error(truth) == pytest.approx(0.25)
    assert contender("rsvd", lambda: 0.0, lambda: float(log[:2].sum()) - 0.5, top=2).error(truth) == pytest.approx(0.5)
    assert contender("reference", lambda: 0.0, None).error(truth) is None
