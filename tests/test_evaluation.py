"""evaluate: the record, its identity, resuming, samples made elsewhere."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

import minoritybench
from minoritybench import evaluate_job
from minoritybench.errors import BadInputError
from minoritybench.provenance import made_by, tool_record
from minoritybench.records import RunRecord, load_benchmark, load_record
from minoritybench.references import load_reference_set
from minoritybench.report.table import metric_table

SQUARE = """class Mine:
    def prepare(self, x): return x.mean(1).flatten(1)
    def __call__(self, x): return x**2
"""
KEYS = (
    *("schema_version", "id", "created", "status", "command", "minoritybench", "benchmark", "method", "generator"),
    *("encoder", "sampling", "reference_set", "metrics", "failures", "environment", "cost", "artifacts", "tolerance"),
    "supersedes",
)
NAMES = [
    "FD (digits-classifier)",
    "FD (digits-pca20)",
    "precision",
    "recall",
    "density",
    "coverage",
    "AvgkNN",
    "AuthPct",
    "rarity",
    "JEPA-SCORE",
    "JEPA-SCORE (deflated)",
    "JEPA-SCORE (held-out: digits-jepa-b)",
    "JEPA-SCORE (held-out: digits-ijepa)",
    "minority share",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunRecord]:
    out = tmp_path_factory.mktemp("evaluate") / "run"
    return out, minoritybench.evaluate("jepa", n=40, seeds=(0, 1), out=out)


def test_record_has_the_promised_keys_and_metrics(run: tuple[Path, RunRecord]) -> None:
    out, record = run
    document = json.loads((out / "record.json").read_text())
    assert set(KEYS) <= set(document)
    assert [metric.name for metric in record.metrics] == NAMES
    assert record.id == record.content_id()
    assert record.cost.nfe == 50
    assert record.cost.passes["denoiser_backward"] == 13
    assert record.method.params["eta"] == 1.0
    assert load_record(out / "record.json") == record


def test_value_is_the_mean_of_the_seeds_with_a_t_interval(run: tuple[Path, RunRecord]) -> None:
    metric = run[1].metric("FD (digits-classifier)")
    assert metric is not None
    values = list(metric.per_seed.values())
    half = 12.706204736 * np.std(values, ddof=1) / 2**0.5  # t quantile of 0.975 at 1 degree of freedom
    assert metric.value == pytest.approx(np.mean(values))
    assert metric.ci_high == pytest.approx(metric.value + half)


def test_sidecar_scores_are_those_of_the_saved_files(run: tuple[Path, RunRecord]) -> None:
    out, record = run
    table = pd.read_parquet(out / "per_image.parquet")
    images = images_of(out, table)
    scores = minoritybench.jepa_score(minoritybench.load_encoder("digits-jepa"), images, mode="reference")
    assert (scores.numpy() == table["score/digits-jepa/reference"].to_numpy()).all()
    metric = record.metric("JEPA-SCORE")
    assert metric is not None
    assert metric.value == pytest.approx(float(scores.mean()))


def images_of(out: Path, table: pd.DataFrame) -> Tensor:
    """The saved samples, `(N, 3, 8, 8)` in [0, 1], in the order of the table."""
    paths = [out / "samples" / f"seed-{row.seed}" / f"{row.index:05d}.png" for row in table.itertuples(index=False)]
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def test_every_score_is_by_the_encoder_and_in_the_mode_it_names(run: tuple[Path, RunRecord]) -> None:
    out, record = run
    table = pd.read_parquet(out / "per_image.parquet")
    images = images_of(out, table)
    names = {
        "JEPA-SCORE": ("digits-jepa", "reference"),
        "JEPA-SCORE (deflated)": ("digits-jepa", "deflated"),
        "JEPA-SCORE (held-out: digits-jepa-b)": ("digits-jepa-b", "reference"),
        "JEPA-SCORE (held-out: digits-ijepa)": ("digits-ijepa", "reference"),
    }
    for name, (encoder_name, mode) in names.items():
        encoder = minoritybench.load_encoder(encoder_name)
        metric = record.metric(name)
        assert metric is not None
        assert (metric.params["encoder"], metric.params["mode"]) == (encoder_name, mode)
        assert metric.params["weights_sha256"] == encoder.weights_sha256  # type: ignore[attr-defined]
        for column in ("reference", "deflated"):
            scores = minoritybench.jepa_score(encoder, images, mode=column).numpy()
            assert (table[f"score/{encoder_name}/{column}"] == scores).all()
            if column == mode:
                means = {str(seed): scores[table["seed"] == seed].mean() for seed in (0, 1)}
                assert metric.per_seed == pytest.approx(means, rel=1e-12)


def test_minority_share_counts_deflated_scores_up_to_the_threshold(run: tuple[Path, RunRecord]) -> None:
    out, record = run
    table = pd.read_parquet(out / "per_image.parquet")
    scores = minoritybench.jepa_score(minoritybench.load_encoder("digits-jepa"), images_of(out, table)).numpy()
    threshold = load_reference_set("digits").recipe.threshold
    shares = {str(seed): float((scores[table["seed"] == seed] <= threshold).mean()) for seed in (0, 1)}
    assert 0 < sum(shares.values()) < 2  # the reference score, thirteen nats lower, would count them all
    metric = record.metric("minority share")
    assert metric is not None
    assert metric.per_seed == shares


@pytest.mark.parametrize("foreign", [True, False])
def test_other_weights_than_those_that_ranked_are_told(tmp_path: Path, foreign: bool) -> None:
    folder = tmp_path / "set"
    shutil.copytree(Path(str(files("minoritybench.reference_sets"))) / "digits", folder)
    recipe = json.loads((folder / "reference_set.json").read_text())
    if foreign:
        recipe["encoder"]["weights_sha256"] = "f" * 64
    (folder / "reference_set.json").write_text(json.dumps(recipe))
    record = minoritybench.evaluate("adm", n=12, seeds=(0,), reference=str(folder), out=tmp_path / "out")
    told = [warning for warning in record.warnings if "other weights" in warning]
    assert len(told) == foreign
    assert (record.metric("minority share") is None) == foreign


def test_too_few_samples_are_told_and_enough_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_benchmark("digits").model_copy(update={"n": 12})
    monkeypatch.setattr(evaluate_job, "load_benchmark", lambda name: spec)
    enough = minoritybench.evaluate("adm", n=12, seeds=(0,), out=tmp_path / "enough")
    few = minoritybench.evaluate("adm", n=11, seeds=(0,), out=tmp_path / "few")
    assert enough.warnings == []
    assert [warning.partition(":")[0] for warning in few.warnings] == ["n=11 a seed is below the benchmark's 12"]


def test_finished_run_is_read_back(run: tuple[Path, RunRecord]) -> None:
    out, record = run
    assert minoritybench.evaluate("jepa", n=40, seeds=(0, 1), out=out) == record
    with pytest.raises(BadInputError, match="holds other work"):
        minoritybench.evaluate("jepa", n=41, seeds=(0, 1), out=out)


def test_values_do_not_depend_on_workers_or_batch_size(run: tuple[Path, RunRecord], tmp_path: Path) -> None:
    other = minoritybench.evaluate("jepa", n=40, seeds=(0, 1), out=tmp_path / "other", workers=2, batch_size=3)
    assert [m.per_seed for m in other.metrics] == [m.per_seed for m in run[1].metrics]


def test_own_samples_are_measured_like_ours(run: tuple[Path, RunRecord], tmp_path: Path) -> None:
    out, record = run
    elsewhere = minoritybench.evaluate(samples=out / "samples" / "seed-1", out=tmp_path / "x")
    for metric in record.metrics:
        found = elsewhere.metric(metric.name)
        assert found is not None
        assert found.value == metric.per_seed["1"]
        if found.value < 1:  # a share of exactly one may have no spread
            assert found.interval is not None
    assert elsewhere.method.name == "samples"


def test_other_guide_keeps_the_benchmarks_encoder_as_a_judge(tmp_path: Path) -> None:
    record = minoritybench.evaluate("jepa", n=12, seeds=(0,), guide="digits-vicreg", out=tmp_path / "x")
    assert record.encoder.guide == "digits-vicreg"
    score, held_out = record.metric("JEPA-SCORE"), record.metric("JEPA-SCORE (held-out: digits-jepa)")
    assert score is not None
    assert held_out is not None
    assert score.params["encoder"] == "digits-vicreg"


@pytest.mark.parametrize(("broken", "named", "more"), [(1, 1, False), (5, 5, False), (7, 5, True)])
def test_broken_samples_are_named_up_to_five(broken: int, named: int, more: bool, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(8):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / f"{index}.png")
    for index in range(broken):
        (folder / f"bad-{index}.png").write_text("no")
    with pytest.raises(BadInputError, match=f"{broken} of {8 + broken} images cannot be read") as raised:
        minoritybench.evaluate(samples=folder, out=tmp_path / "out")
    assert raised.value.exit_code == 2
    said = str(raised.value)
    assert [f"bad-{index}.png: not an image" in said for index in range(broken)] == [i < named for i in range(broken)]
    assert said.endswith("and 2 more") == more
    assert len(said.splitlines()) == 1


def test_method_and_samples_exclude_each_other(tmp_path: Path) -> None:
    for options in ({}, {"method": "adm", "samples": tmp_path}):
        with pytest.raises(BadInputError, match="either --method or --samples"):
            minoritybench.evaluate(**options)


def test_an_edited_record_or_sidecar_is_made_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = minoritybench.evaluate("adm", n=20, seeds=[1], out=str(out))
    record = json.loads((out / "record.json").read_text())
    for damage in (
        lambda: (out / "record.json").write_text(json.dumps({**record, "command": "forged"})),
        lambda: (out / "record.json").write_text("{"),
        lambda: (out / "sheet.png").write_bytes(b""),
    ):
        damage()
        again = minoritybench.evaluate("adm", n=20, seeds=[1], out=str(out))
        assert [m.value for m in again.metrics] == [m.value for m in first.metrics]
        assert load_record(out / "record.json") == again
        assert again.id == again.content_id()


def test_samples_of_a_finished_run_are_its_images_alone(run: tuple[Path, RunRecord], tmp_path: Path) -> None:
    record = minoritybench.evaluate(samples=run[0], out=tmp_path / "again")
    assert record.sampling.n == 80


def test_flags_that_say_how_to_sample_do_not_go_with_samples(run: tuple[Path, RunRecord]) -> None:
    for option in ({"seeds": [3]}, {"settings": {"eta": 2}}, {"class_conditional": True}):
        with pytest.raises(BadInputError, match="are drawn already"):
            minoritybench.evaluate(samples=run[0], **option)


def test_out_inside_the_samples_is_refused(run: tuple[Path, RunRecord]) -> None:
    with pytest.raises(BadInputError, match="overlaps"):
        minoritybench.evaluate(samples=run[0], out=run[0] / "samples" / "out", force=True)
    assert (run[0] / "record.json").is_file()


def test_six_samples_are_too_few(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="need 7"):
        minoritybench.evaluate("adm", n=6, out=tmp_path / "out")
    assert minoritybench.evaluate("adm", n=7, seeds=(0,), out=tmp_path / "out").sampling.n == 7


def test_share_is_left_out_against_an_approximate_reference(tmp_path: Path) -> None:
    minoritybench.rank_dataset("digits", out=tmp_path / "set", estimator="rsvd", limit=100, keep="20")
    record = minoritybench.evaluate("adm", n=10, seeds=(0,), reference=tmp_path / "set", out=tmp_path / "run")
    assert record.metric("minority share") is None
    assert record.metric("FD (digits-classifier)") is not None


def test_parts_made_by_another_state_of_the_code_make_a_record_dirty() -> None:
    now = tool_record()
    other = {"version": now.version, "commit": "0" * 40, "dirty": False}
    assert made_by([now.model_dump(), now.model_dump()]) == now
    assert made_by([now.model_dump(), other]).dirty is True


def test_force_never_clears_the_reference_set_it_reads(tmp_path: Path) -> None:
    minoritybench.rank_dataset("digits", out=tmp_path / "set", limit=60, keep="20")
    with pytest.raises(BadInputError, match="overlaps"):
        minoritybench.evaluate("adm", n=8, seeds=11, reference=tmp_path / "set", out=tmp_path / "set", force=True)
    assert (tmp_path / "set" / "members.csv").is_file()


def test_share_is_left_out_where_the_ranking_encoder_was_edited(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    prepare, call = (
        "    def prepare(self, x): return x.mean(1).flatten(1)",
        "    def __call__(self, x): return x**2 + x",
    )
    text = f"class Mine:\n{prepare}\n{call}\n"
    code.write_text(text)
    name = f"{code}:Mine"
    minoritybench.rank_dataset("digits", out=tmp_path / "set", encoder=name, limit=60, keep="20")
    options = {"n": 8, "seeds": 11, "reference": tmp_path / "set"}
    assert minoritybench.evaluate("adm", out=tmp_path / "a", **options).metric("minority share") is not None
    code.write_text(text.replace("+ x", "+ 2 * x"))
    assert minoritybench.evaluate("adm", out=tmp_path / "b", **options).metric("minority share") is None


def test_stretched_samples_are_another_measurement(run: tuple[Path, RunRecord], tmp_path: Path) -> None:
    plain = minoritybench.evaluate(samples=run[0], out=tmp_path / "plain")
    stretched = minoritybench.evaluate(samples=run[0], out=tmp_path / "stretched", minmax_stretch=True)
    assert not {metric.id for metric in plain.metrics} & {metric.id for metric in stretched.metrics}
    assert all(metric.params["minmax_stretch"] is True for metric in stretched.metrics)
    folder = tmp_path / "by-hand"
    folder.mkdir()
    for path in sorted((run[0] / "samples").rglob("*.png")):
        pixels = np.asarray(Image.open(path)).astype(float)
        scaled = (pixels - pixels.min()) / (pixels.max() - pixels.min())
        Image.fromarray(np.round(scaled * 255).astype(np.uint8)).save(folder / f"{path.parent.name}-{path.name}")
    by_hand = minoritybench.evaluate(samples=folder, out=tmp_path / "out")
    assert [m.value for m in by_hand.metrics] == [m.value for m in stretched.metrics]
    assert [m.value for m in by_hand.metrics] != [m.value for m in plain.metrics]


def test_text_summary_says_how_many_images_stand_behind_each_figure(run: tuple[Path, RunRecord]) -> None:
    lines = metric_table(run[1]).splitlines()
    assert lines[0].endswith("n=40, seeds [0, 1]; reference set digits, n=375")
    (precision,) = [line for line in lines if line.startswith("precision")]
    (near,) = [line for line in lines if line.startswith("AvgkNN")]
    (coverage,) = [line for line in lines if line.startswith("coverage")]
    assert "40/375" in precision
    assert "40/1500" in near
    assert coverage.endswith(f"{1 - np.prod([(375 - i) / (415 - i) for i in range(1, 6)]):.2f}")
    assert "intervals: t over seeds" in lines
