"""analyze scores: spectra against closed forms, the columns, the files, and what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from minoritybench import analysis
from minoritybench.analysis import AnalysisRequest, analyse_scores, spectrum_facts
from minoritybench.cli.analyze import command
from minoritybench.errors import BadInputError
from minoritybench.rank import NothingScoredError
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
    assert last["offset_ratio"] is None  # the last sigma is 1 in every image, so the tail's logarithm is 0


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
    below = shown.stdout.partition("\nE, Var")[2]
    for heading in {heading.removesuffix(" top-k").removesuffix(" RSVD") for _, heading, _ in COLUMNS}:
        assert re.search(rf"[\s(]{re.escape(heading)}[,:; ]", below), heading
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


def test_too_large_a_rank_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis, "_deflated", lambda *_: pytest.fail("a Jacobian was computed"))
    with pytest.raises(BadInputError, match="only 15 singular values"):
        analyse_scores(AnalysisRequest("digits", encoder="digits-jepa", limit=5, k=(2, 15), out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_finished_work_is_read_back_and_other_work_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = AnalysisRequest("digits", encoder="digits-jepa", limit=5, k=(3,), out=tmp_path / "out")
    document = analyse_scores(request)
    with monkeypatch.context() as patch:
        patch.setattr(analysis, "_deflated", lambda *_: pytest.fail("a Jacobian was computed"))
        assert analyse_scores(request) == document
        with pytest.raises(BadInputError, match=r"holds other work \(cases: .* pass --force"):
            analyse_scores(replace(request, k=(4,)))
    assert analyse_scores(replace(request, k=(4,), force=True))["cases"][0]["k"] == 4


@pytest.mark.parametrize("damage", ["edited", "cut", "no document", "no digest"])
def test_damaged_work_is_noticed_and_done_again(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = AnalysisRequest("digits", encoder="digits-jepa", limit=5, k=(3,), out=tmp_path)
    document = analyse_scores(request)
    path, page = tmp_path / "analysis.json", tmp_path / "analysis.html"
    whole, drawn = path.read_text(), page.read_text()
    damaged = {
        "edited": whole.replace('"violated": 0', '"violated": 1'),
        "cut": whole[: len(whole) // 2],
        "no document": "[]",
        "no digest": json.dumps({key: value for key, value in document.items() if key != "sha256"}),
    }
    path.write_text(damaged[damage])
    page.write_text("spoilt")
    assert analyse_scores(request) == document
    assert (path.read_text(), page.read_text()) == (whole, drawn)
    assert f"{path}" in caplog.text
    assert "made again" in caplog.text
    page.unlink()
    monkeypatch.setattr(analysis, "_deflated", lambda *_: pytest.fail("a Jacobian was computed"))
    assert analyse_scores(request) == document
    assert page.read_text() == drawn


def test_unreadable_images_are_listed_and_set_the_exit_code(tmp_path: Path) -> None:
    for level in range(4):
        Image.new("RGB", (8, 8), (40 * level, 9, 9)).save(tmp_path / f"{level}.png")
    (tmp_path / "0.png").write_bytes(b"no picture")
    words = ["scores", str(tmp_path), "--encoder", "digits-jepa", "--k", "3", "--json", "--out", str(tmp_path / "out")]
    for _ in range(2):  # the second reads the first back
        shown = CliRunner().invoke(command, words)
        assert shown.exit_code == 5
        document = json.loads(shown.stdout)
        assert (document["dataset"]["images"], document["dataset"]["failed"]) == (3, 1)
        assert [failure["id"] for failure in document["failures"]] == ["0.png"]
        assert "1 image failed" in shown.stderr
        assert "  0.png: " in shown.stderr


def test_nothing_but_unreadable_images_is_told(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"no picture")
    with pytest.raises(NothingScoredError, match=r"none of the 1 images gave a spectrum; the first: 0.png"):
        analyse_scores(AnalysisRequest(str(tmp_path), encoder="digits-jepa", out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_inputs_of_varying_size_name_the_encoder(tmp_path: Path) -> None:
    for side in (4, 5):
        Image.new("RGB", (side, side), (9 * side, 0, 0)).save(tmp_path / f"{side}.png")
    (tmp_path / "mine.py").write_text(
        "class Mine:\n    def prepare(self, x): return x\n    def __call__(self, x): return x.flatten(1)[:, :9] ** 2\n"
    )
    with pytest.raises(BadInputError, match=r"Mine.prepare returns \(3, 4, 4\) for one image and \(3, 5, 5\)"):
        analyse_scores(AnalysisRequest(str(tmp_path), encoder=f"{tmp_path / 'mine.py'}:Mine", k=(2,)))


def test_equal_images_have_no_correlations(tmp_path: Path) -> None:
    for name in "abc":
        Image.new("RGB", (8, 8), (90, 90, 90)).save(tmp_path / f"{name}.png")
    (row,) = analyse_scores(AnalysisRequest(str(tmp_path), encoder="digits-jepa", k=(3,)))["cases"]
    assert (row["spearman_top_k"], row["r2_top_k"]) == (None, None)
