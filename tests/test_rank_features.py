"""Rankings by neighbours, and the figure that says whether a score is a density."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy.stats import spearmanr
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from torch import Tensor

import minoritybench
from minoritybench import rank_features
from minoritybench.cli.rank import command
from minoritybench.errors import BadInputError
from minoritybench.features import load_extractor
from minoritybench.rank_features import load_features
from minoritybench.rank_shard import shard_file
from minoritybench.references import load_reference_set

ARTEFACTS = ("scores.parquet", "reference_set.json", "members.csv", "failures.csv", "gallery.html")
N = 150


def mean_of_five_nearest(features: np.ndarray) -> np.ndarray:
    distances, _ = NearestNeighbors(n_neighbors=6, algorithm="kd_tree").fit(features).kneighbors(features)
    return distances[:, 1:].mean(axis=1)


@pytest.fixture(scope="module")
def embedded(digits: Tensor) -> np.ndarray:
    encoder = minoritybench.load_encoder("digits-jepa")
    return encoder(encoder.prepare(digits[:N])).detach().double().numpy()


def rank(out: Path, **options: object) -> pd.DataFrame:
    minoritybench.rank_dataset("digits", out=out, limit=N, **options)
    return pd.read_parquet(out / "scores.parquet")


@pytest.mark.parametrize("rank_by", ["avgknn", "lof"])
def test_rarity_among_neighbours_is_scikit_learns(rank_by: str, embedded: np.ndarray, tmp_path: Path) -> None:
    wanted = mean_of_five_nearest(embedded)
    if rank_by == "lof":
        wanted = -LocalOutlierFactor(n_neighbors=20).fit(embedded).negative_outlier_factor_
    scores = rank(tmp_path / "a", rank_by=rank_by, shard_size=64)
    assert scores["proxy"].to_numpy() == pytest.approx(wanted, rel=1e-4)
    assert scores[["score", "score_deflated", "rank_deficit"]].isna().all(axis=None)
    order = scores.sort_values(["proxy", "id"], ascending=[False, True])
    assert order["rank"].tolist() == list(range(1, N + 1))
    reference = load_reference_set(tmp_path / "a")
    assert reference.recipe.rank_by == rank_by
    assert reference.recipe.threshold is None
    assert reference.recipe.estimator["rare"] == "high"
    assert reference.recipe.statistics["max"] == scores["proxy"].max()
    assert reference.members["id"].tolist() == order["id"].head(reference.recipe.n).tolist()
    rank(tmp_path / "b", rank_by=rank_by, shard_size=40, batch_size=3, workers=2)
    for name in ARTEFACTS:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_a_feature_extractor_serves_as_encoder(digits: Tensor, tmp_path: Path) -> None:
    scores = rank(tmp_path / "out", rank_by="avgknn", encoder="digits-pca20")
    features = load_extractor("digits-pca20")(digits[:N])
    assert scores["proxy"].to_numpy() == pytest.approx(mean_of_five_nearest(features.astype(np.float64)), rel=1e-4)
    assert load_reference_set(tmp_path / "out").recipe.encoder["name"] == "digits-pca20"
    with pytest.raises(BadInputError, match="--weights"):
        rank(tmp_path / "none", rank_by="avgknn", encoder="digits-pca20", weights="random")


def test_samples_are_measured_against_such_a_set_without_its_extractor_as_judge(tmp_path: Path) -> None:
    rank(tmp_path / "set", rank_by="avgknn", encoder="digits-pca20")
    record = minoritybench.evaluate("adm", n=12, seeds=(0,), reference=str(tmp_path / "set"), out=tmp_path / "run")
    assert record.metric("coverage") is not None
    assert record.metric("minority share") is None  # no score of theirs is a threshold for ours
    assert "digits-pca20" not in record.encoder.judges


def test_features_stand_beside_the_shards_and_belong_to_them(embedded: np.ndarray, tmp_path: Path) -> None:
    scores = rank(tmp_path, shard_size=64)
    shards = [shard_file(tmp_path, shard) for shard in range(3)]
    kept = load_features(shards, scores["id"])
    assert kept == pytest.approx(embedded, abs=1e-6)
    some = scores["id"].iloc[[140, 3, 77]]
    assert (load_features(shards, some) == kept[[140, 3, 77]]).all()
    (tmp_path / "shards" / "000001.safetensors").unlink()
    rank(tmp_path, shard_size=64)  # its receipt no longer holds: done again
    assert (load_features(shards, scores["id"]) == kept).all()


def test_validity_figure_of_a_ranking(embedded: np.ndarray, tmp_path: Path) -> None:
    outcome = minoritybench.rank_dataset("digits", out=tmp_path, limit=N)
    scores = pd.read_parquet(tmp_path / "scores.parquet")["score_deflated"]
    rho = outcome.reference_set.statistics["knn_spearman"]
    assert rho == pytest.approx(spearmanr(scores, -mean_of_five_nearest(embedded)).statistic, abs=2e-3)
    assert outcome.reference_set.statistics["knn_images"] == N
    assert f"{rho:+.3f}" in (tmp_path / "gallery.html").read_text()
    assert any("kNN density" in warning for warning in outcome.warnings) == (rho <= 0)


def test_an_inverted_encoder_is_warned_of(tmp_path: Path) -> None:
    outcome = minoritybench.rank_dataset("digits", out=tmp_path, limit=N, encoder="digits-vicreg")
    assert outcome.reference_set.statistics["knn_spearman"] < -0.3
    assert any("may not mean rare" in warning for warning in outcome.warnings)


def test_above_the_limit_a_fixed_choice_of_images_stands_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_features, "MOST_IMAGES", 60)
    found = [
        minoritybench.rank_dataset(
            "digits", out=tmp_path / str(size), limit=N, shard_size=size
        ).reference_set.statistics
        for size in (64, 17)
    ]
    assert found[0] == found[1]
    assert found[0]["knn_images"] == 60


def test_few_images_leave_it_open(tmp_path: Path) -> None:
    outcome = minoritybench.rank_dataset("digits", out=tmp_path, limit=5, keep="2")
    assert outcome.reference_set.statistics["knn_spearman"] is None
    assert "not known" in (tmp_path / "gallery.html").read_text()


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["digits", "--limit", "60", "--rank-by", "lof", "--out", "out"]
    text = CliRunner().invoke(command, words).stdout
    assert "LOF" in text
    assert "15 highest" in text
    recipe = json.loads(CliRunner().invoke(command, [*words, "--json"]).stdout)
    assert recipe["cost"]["row_fraction"] == 0.0
    assert "ranked by LOF" in (tmp_path / "out" / "gallery.html").read_text()
    assert "kNN rho" in CliRunner().invoke(command, ["digits", "--limit", "60", "--out", "jepa"]).stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank_by": "avgknn", "limit": 5}, "5 neighbours of each image, of 5"),
        ({"rank_by": "lof", "estimator": "rsvd"}, "--estimator rsvd belongs to --rank-by jepa"),
        ({"rank_by": "kde"}, "--rank-by 'kde'"),
        ({"encoder": "digits-pca20"}, "unknown encoder"),
    ],
)
def test_mistakes(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=message):
        minoritybench.rank_dataset("digits", out=tmp_path / "out", **options)
