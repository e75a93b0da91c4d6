"""evaluate beyond the embedded benchmark: what is missing is told at once; with stand-ins it runs end to end."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toy_inception import place_weights, random_network

import minoritybench
from minoritybench import evaluate_job, measures
from minoritybench.errors import MissingAssetError
from minoritybench.features import load_extractor
from minoritybench.metrics import frechet_distance, inception_score
from minoritybench.metrics.uncertainty import delete_groups
from minoritybench.records import BenchmarkSpec, MetricRecord, load_benchmark
from minoritybench.references import load_reference_set
from minoritybench.report.table import metric_table

ENCODER = """import torch
class Mine:
    def prepare(self, x): return torch.nn.functional.adaptive_avg_pool2d(x.mean(1, keepdim=True), 4).flatten(1)
    def __call__(self, x): return x**2 + x
"""
SIDE, COUNT, KEPT = 16, 15, 16


@pytest.mark.parametrize("samples", [False, True])
def test_everything_that_is_missing_is_told_in_one_message(
    samples: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("MINORITYBENCH_CACHE", "TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.chdir(tmp_path)
    folder = pictures(tmp_path / "in", 8)
    how: dict[str, Any] = {"samples": folder} if samples else {"method": "adm"}
    with pytest.raises(MissingAssetError) as raised:
        minoritybench.evaluate(benchmark="celeba64", out=tmp_path / "out", **how)
    said = str(raised.value)
    assert raised.value.exit_code == 4
    assert len(said.splitlines()) == 1
    for part in ("inception-2015-12-05.pt", "pt_inception-2015-12-05-6726825d.pth", "vgg16-397923af.pth"):
        assert said.count(f"weights {part}") == 1
    for part in ("rank-dataset celeba", "mmlab.ie.cuhk.edu.hk", "dinov2-vits14-reg: weights", "metaclip-b16: weights"):
        assert part in said
    assert ("ADM" in said or "adm-celeba64" in said) != samples
    assert not (tmp_path / "out").exists()


def pictures(folder: Path, count: int, seed: int = 0) -> Path:
    """Smooth colour pictures."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"{index:03d}.png")
    return folder


@pytest.fixture
def benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BenchmarkSpec:
    """CelebA's benchmark with a folder in place of CelebA, a toy encoder, and Inception of random weights."""
    place_weights(random_network(), tmp_path / "cache", monkeypatch)
    code = tmp_path / "mine.py"
    code.write_text(ENCODER)
    encoder = f"{code}:Mine"
    minoritybench.rank_dataset(pictures(tmp_path / "real", 30), encoder=encoder, keep=str(KEPT), out=tmp_path / "set")
    settings = load_benchmark("celeba64").model_dump() | {
        "guide": encoder,
        "judges": [],
        "image_size": SIDE,
        "reference_set": str(tmp_path / "set"),
        "manifold_features": "inception-fid",
        "manifold_k": 3,
        "metrics": [
            {"metric": "sFID"},
            {"metric": "inception score"},
            {"metric": "KID", "features": "inception-fid", "layer": "pool3"},
            {"metric": "precision", "layer": "pool3", "features": "inception-fid"},
            {"metric": "coverage", "layer": "pool3", "features": "inception-fid"},
        ],
    }
    spec = BenchmarkSpec.model_validate(settings)
    monkeypatch.setattr(evaluate_job, "load_benchmark", lambda name: spec)
    monkeypatch.setattr(measures, "delete_groups", partial(delete_groups, groups=2))  # each costs an eigenvalue problem
    return spec


@pytest.mark.slow
def test_stand_ins_run_end_to_end_and_the_reference_side_is_described_once(
    benchmark: BenchmarkSpec, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "samples", COUNT, seed=1)
    record = minoritybench.evaluate(samples=folder, benchmark="celeba64", out=tmp_path / "out")
    names = ["sFID", "inception score", "KID", "precision", "coverage"]
    assert [metric.name for metric in record.metrics][:5] == names
    extractor = load_extractor("inception-fid")
    real = extractor.outputs(tensors(reference_pixels(benchmark)), ["6d"])["6d"]  # type: ignore[attr-defined]
    fake = extractor.outputs(tensors(folder_pixels(folder)), ["6d", "logits"])  # type: ignore[attr-defined]
    spatial, score, coverage = (found(record.metrics, name) for name in ("sFID", "inception score", "coverage"))
    assert spatial.value == pytest.approx(frechet_distance(real=real, fake=fake["6d"]).value, rel=1e-6)
    assert score.value == pytest.approx(inception_score(fake=fake["logits"]).value, rel=1e-6)
    assert spatial.params["layer"] == "6d"
    assert (spatial.params["n_real"], spatial.params["n_fake"]) == (KEPT, COUNT)
    assert spatial.params["preprocess"] == "author-bilinear-299"
    assert "reference_set" not in score.params
    assert coverage.ideal == pytest.approx(1 - np.prod([(KEPT - i) / (KEPT + COUNT - i) for i in (1, 2, 3)]))
    assert spatial.ideal is None  # fewer images than four a dimension
    assert found(record.metrics, "KID").ideal == 0.0
    assert f"{COUNT}/{KEPT}" in metric_table(record)
    assert f"n={KEPT}" in metric_table(record)

    shards = tmp_path / "cache" / "features"
    before = {path: path.stat().st_mtime_ns for path in shards.rglob("*.safetensors")}
    assert len(before) == 1 + 2  # a shard with all layers, and the moments of each that has a real side
    fewer = minoritybench.evaluate(samples=folder, benchmark="celeba64", n=COUNT - 1, out=tmp_path / "fewer")
    assert {path: path.stat().st_mtime_ns for path in shards.rglob("*.safetensors")} == before
    ids = {metric.id for metric in record.metrics}
    assert not ids & {metric.id for metric in fewer.metrics}  # other numbers of images never share a column


def found(metrics: list[MetricRecord], name: str) -> MetricRecord:
    (metric,) = [metric for metric in metrics if metric.name == name]
    return metric


def reference_pixels(benchmark: BenchmarkSpec) -> list[Any]:
    return [image.pixels for image in load_reference_set(benchmark.reference_set).images()]


def folder_pixels(folder: Path) -> list[Any]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]


def tensors(pixels: list[Any]) -> list[Any]:
    return [torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255 for image in pixels]
