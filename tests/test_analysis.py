"""analyze scores: spectra against closed forms, the columns, the files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from minoritybench.analysis import AnalysisRequest, analyse_scores, spectrum_facts
from minoritybench.cli.analyze import command
from minoritybench.errors import BadInputError
from minoritybench.report.spectra import COLUMNS, error_rows

ENCODERS = Path(__file__).with_name("toy_rankings.py")


def test_spectrum_facts_of_two_images() -> None:
    facts = spectrum_facts(torch.tensor([[4.0, 1.0], [2.0, 1.0]], dtype=torch.float64))
    assert facts["sigma_mean"] == [3.0, 1.0]
    assert facts["sigma_variance"] == [1.0, 0.0]
    assert facts["sigma_cumulative"] == [1.0, 1.0]
    assert facts["log_mean"] == pytest.approx([1.5 * torch.tensor(2.0).log().item(), 0.0])
    assert facts["log_variance"] == pytest.approx([0.25 * torch.tensor(2.0).log().item() ** 2, 0.0])


def test_spectrum_of_a_known_encoder(digits: torch.Tensor) -> None:
    request = AnalysisRequest("digits", encoder=f"{ENCODERS}:predictable", limit=20, k=(2, 16 - 1), q=(4,))
    document = analyse_scores(request)
    pixels = digits[:20, 0].reshape(-1, 4, 2, 4, 2).mean((2, 4)).flatten(1).double()
    truth = (2 * pixels).exp().sort(dim=1, descending=True).values
    assert document["singular_values"] == 16
    assert document["spectrum"]["sigma_mean"] == pytest.approx(truth.mean(0).tolist(), rel=1e-5)
    assert document["spectrum"]["log_variance"] == pytest.approx(truth.log().var(0, correction=0).tolist(), abs=1e-5)
    last = document["cases"][1]
    assert last["e_trunc"] == pytest.approx(truth[:, 15].log().mean().item(), abs=1e-5)
    assert last["error"] == pytest.approx(last["e_rsvd"] + last["e_trunc"])
    assert document["proposition_4_1"] == {"checked": 40, "violated": 0}


@pytest.mark.parametrize("encoder", ["digits-jepa", "digits-ijepa"])
def test_bounds_hold_on_the_embedded_encoders(encoder: str) -> None:
    document = analyse_scores(AnalysisRequest("digits", encoder=encoder, limit=30, k=(2, 9), p=(0, 2), q=(0, 2)))
    assert document["singular_values"] == {"digits-jepa": 15, "digits-ijepa": 64}[encoder]
    assert document["proposition_4_1"] == {"checked": 240, "violated": 0}
    by_power = {(case["k"], case["p"], case["q"]): case["e_rsvd"] for case in document["cases"]}
    assert 0 <= by_power[9, 2, 2] < by_power[9, 0, 0]


def test_command_prints_tables_and_leaves_a_page(tmp_path: Path) -> None:
    words = ["scores", "digits", "--limit", "20", "--k", "3", "--k", "9", "--out", str(tmp_path / "out")]
    shown = CliRunner().invoke(command, words)
    assert shown.exit_code == 0
    assert "holds on these 40 cases" in shown.stdout
    assert [heading in shown.stdout for _, heading, _ in COLUMNS].count(False) == 0
    page = (tmp_path / "out" / "analysis.html").read_text()
    assert page.count("<svg") == 6
    assert "src=" not in page
    document = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert json.loads(CliRunner().invoke(command, [*words, "--json"]).stdout) == document
    assert len(error_rows(document)) == 3


def test_rank_without_a_tail_is_refused() -> None:
    with pytest.raises(BadInputError, match="only 15 singular values"):
        analyse_scores(AnalysisRequest("digits", encoder="digits-jepa", limit=5, k=(15,)))
    with pytest.raises(BadInputError, match="k >= 2"):
        analyse_scores(AnalysisRequest("digits", encoder="digits-jepa", limit=5, k=(1,)))
