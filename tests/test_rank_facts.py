"""rank-dataset: confounder columns, spectrum moments and warnings, against closed forms and independent packages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import laplace
from scipy.stats import spearmanr

import minoritybench
from minoritybench.data.confounders import CONFOUNDERS
from minoritybench.rank import RankOutcome, merge_moments
from minoritybench.rank_facts import confounder_correlations
from minoritybench.rank_shard import SpectrumMoments

Pixels = NDArray[np.uint8]
RED_SQUARED = """
class Encoder:
    name, dim = "red", 1
    def prepare(self, images): return images.mean((2, 3))
    def __call__(self, x): return x[:, :1] ** 2
"""
"""Score: log of twice the mean red."""


def rank(tmp_path: Path, images: Mapping[str, Pixels], encoder: str = RED_SQUARED, **options: object) -> RankOutcome:
    """Rank a folder of these images by an encoder given as source."""
    (tmp_path / "in").mkdir(parents=True, exist_ok=True)
    for name, pixels in images.items():
        Image.fromarray(pixels).save(tmp_path / "in" / f"{name}.png")
    (tmp_path / "mine.py").write_text(encoder)
    source = f"{tmp_path / 'mine.py'}:Encoder"
    return minoritybench.rank_dataset(
        str(tmp_path / "in"), out=tmp_path / "out", encoder=source, **{"keep": "1", **options}
    )


def shard_rows(tmp_path: Path) -> pd.DataFrame:
    rows = pd.concat([pd.read_parquet(path) for path in sorted((tmp_path / "out" / "shards").glob("*.parquet"))])
    return rows.set_index("id")


def grey(levels: NDArray[np.integer]) -> Pixels:
    return np.repeat(levels.astype(np.uint8)[:, :, None], 3, axis=2)


def test_confounder_columns_hold_what_they_are_called(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 7, 3), dtype=np.uint8)
    edge = np.zeros((8, 8))
    edge[:, 4:] = 255
    red = np.zeros((8, 8, 3), dtype=np.uint8)
    red[..., 0] = 255
    rank(tmp_path, {"constant": grey(np.full((8, 8), 51)), "edge": grey(edge.astype(int)), "noise": noise, "red": red})
    rows = shard_rows(tmp_path)
    luminance = noise @ [0.299, 0.587, 0.114] / 255
    expected = {
        # mean squared Laplacian: +1 and -1 on the two columns of eight at the edge
        "sharpness": [0, 2 / 8, (laplace(luminance, mode="nearest") ** 2).mean(), 0],
        "contrast": [0, 0.5, luminance.std(), 0],
        "brightness": [0.2, 0.5, luminance.mean(), 0.299],
        "file_bytes": [(tmp_path / "in" / name).stat().st_size for name in rows.index],
        "resolution": [64, 64, 84, 64],
    }
    assert rows.index.tolist() == ["constant.png", "edge.png", "noise.png", "red.png"]
    for name, values in expected.items():
        assert rows[name].to_numpy() == pytest.approx(np.array(values, dtype=float), abs=1e-12), name


def test_correlations_are_spearmans_of_the_deflated_score_with_each_column(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    images = {}
    for index in range(20):
        pixels = rng.random((4 + index % 5, 6, 3)) * rng.integers(40, 256, 3)
        images[f"{index:02d}"] = (np.sort(pixels, axis=1) if index % 3 else pixels).astype(np.uint8)
    outcome = rank(tmp_path, images)
    rows = shard_rows(tmp_path)
    found = outcome.reference_set.statistics["confounders"]
    assert list(found) == ["sharpness", "contrast", "brightness", "file_bytes", "resolution"]
    for name, rho in found.items():
        assert rho == pytest.approx(spearmanr(rows["score_deflated"], rows[name]).statistic, abs=1e-12), name
    assert len({round(rho, 6) for rho in found.values()}) == 5


def test_correlations_are_among_the_images_that_have_a_score() -> None:
    """The others' brightness, between those of the scored ones, must not stretch the ranks of these."""
    rng = np.random.default_rng(3)
    table = pd.DataFrame({name: rng.normal(size=30) for name in (*CONFOUNDERS, "value")})
    table.loc[::2, "value"] = np.nan
    table.loc[1::2, "contrast"] = 0.5
    scored = table.dropna(subset=["value"])
    found = confounder_correlations(table)
    assert found.pop("contrast") is None  # it varies among the others alone
    for name, rho in found.items():
        assert rho == pytest.approx(spearmanr(scored["value"], scored[name]).statistic, abs=1e-12), name


def with_brightness_order(order: Sequence[int]) -> dict[str, Pixels]:
    """Images with red 5, 10, 15, ..., so that their scores rise, and green that orders brightness as given."""
    return {
        str(number): np.broadcast_to(np.array([5 * (number + 1), 40 * place, 0], np.uint8), (4, 4, 3)).copy()
        for number, place in enumerate(order)
    }


@pytest.mark.parametrize(
    ("order", "rho", "told"),
    [
        ((3, 1, 2, 5, 4), 0.6, "(Spearman +0.60): a low one may only mean low brightness"),
        ((3, 1, 5, 2, 4), 0.3, None),
        ((3, 5, 1, 4, 2), -0.3, None),
        ((3, 5, 4, 1, 2), -0.6, "(Spearman -0.60): a low one may only mean high brightness"),
    ],
)
def test_a_score_that_follows_brightness_is_told(
    tmp_path: Path, order: Sequence[int], rho: float, told: str | None
) -> None:
    outcome = rank(tmp_path, with_brightness_order(order))
    assert outcome.reference_set.statistics["confounders"]["brightness"] == pytest.approx(rho)
    found = [warning for warning in outcome.warnings if "brightness" in warning]
    assert found == ([] if told is None else [f"the score follows brightness {told}"])


def others(outcome: RankOutcome) -> list[str]:
    """Warnings that are not about what the score echoes, which these few flat images always do."""
    return [warning for warning in outcome.warnings if "follows" not in warning and "kNN density" not in warning]


def test_ordinary_images_warn_of_nothing_else(tmp_path: Path) -> None:
    assert others(rank(tmp_path, with_brightness_order((1, 2, 3)))) == []


def test_estimated_scores_are_called_approximate(tmp_path: Path) -> None:
    (told,) = others(rank(tmp_path, with_brightness_order((1, 2, 3)), estimator="rsvd"))
    assert told.startswith("approximate: ")


@pytest.mark.parametrize(("images", "told"), [(50, "2.0% of the images"), (100, None)])
def test_dead_units_are_told_above_one_percent(tmp_path: Path, images: int, told: str | None) -> None:
    """One black image, whose only singular value vanishes, among 50 or 100."""
    found = others(rank(tmp_path, {str(number): np.full((2, 2, 3), 2 * number, np.uint8) for number in range(images)}))
    assert [warning.partition(" have singular values at zero")[0] for warning in found] == ([told] if told else [])


def test_what_dead_units_decide_is_counted(tmp_path: Path) -> None:
    """The black image is in the set for its zero alone: without it the sum is empty, and brighter ones are lower."""
    images = {f"{number:03d}": np.full((2, 2, 3), 2 * number, np.uint8) for number in range(50)}
    statistics = rank(tmp_path, images, keep="2").reference_set.statistics
    assert statistics["rank_deficit_members"] == 1
    assert statistics["members_either_way"] == 1
    alone = rank(tmp_path / "none", {name: image + 9 for name, image in images.items()}, keep="2")
    assert alone.reference_set.statistics["rank_deficit_share"] == 0
    assert "members_either_way" not in alone.reference_set.statistics


def test_conversions_are_counted_by_kind(tmp_path: Path) -> None:
    flat = {"a": np.full((4, 4), 10, np.uint8), "b": np.full((4, 4), 20, np.uint8)}
    clear = {"c": np.full((4, 4, 4), 200, np.uint8), "d": np.full((4, 4, 3), 40, np.uint8)}
    (told,) = others(rank(tmp_path, {**flat, **clear}))
    assert told == "converted to 8-bit RGB: 2 L -> RGB, 1 RGBA on white -> RGB"


@pytest.mark.parametrize(("side", "told"), [(8, False), (9, True)])
def test_shrinking_to_less_than_a_quarter_is_told(tmp_path: Path, side: int, told: bool) -> None:
    images = {str(number): np.full((side, 30, 3), 60 + number, np.uint8) for number in range(3)}
    found = others(
        rank(tmp_path, images, RED_SQUARED.replace("dim = ", "dim, input_size = ").replace(", 1", ", 1, 2", 1))
    )
    assert [("sees 2 px images" in warning) for warning in found] == [True] * told


@pytest.mark.parametrize(("keep", "told"), [("3", True), ("2", False), ("100%", False)])
def test_fewer_images_than_asked_for_are_told(tmp_path: Path, keep: str, told: bool) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.png").write_text("no")
    found = others(rank(tmp_path, with_brightness_order((1, 2)), keep=keep))
    assert found == ["kept 2 images, all that could be scored, of 3 asked for"] * told


def test_spectrum_moments_are_numpys(tmp_path: Path) -> None:
    sigma = np.random.default_rng(2).lognormal(size=(23, 6)) * np.array([9, 5, 3, 2, 1, 1e-7])
    parts = []
    for block in (sigma[:10], sigma[10:11], sigma[11:]):
        moments = SpectrumMoments()
        moments.add(torch.from_numpy(block))
        parts.append(moments.as_dict())
    merged = merge_moments([*parts, SpectrumMoments().as_dict()])
    logs = np.log(np.maximum(sigma, 1e-6))
    assert merged["count"] == 23
    for key, values in {"sigma": sigma, "log": logs}.items():
        assert merged[f"{key}_mean"] == pytest.approx(values.mean(axis=0), rel=1e-10)
        assert merged[f"{key}_variance"] == pytest.approx(values.var(axis=0), rel=1e-8, abs=1e-12)


def test_gallery_draws_the_deviation_of_the_log_spectrum(tmp_path: Path) -> None:
    """One singular value, log(2 r): the band's ticks are the mean less and plus one standard deviation."""
    rank(tmp_path, with_brightness_order((1, 2, 3, 4, 5)))
    logs = np.log(2 * 5 * np.arange(1, 6) / 255)
    page = (tmp_path / "out" / "gallery.html").read_text()
    chart = page[page.index('class="band"') :]
    for value in (logs.mean() - logs.std(), logs.mean() + logs.std()):
        assert f">{value:.1f}</text>" in chart


def test_equal_scores_have_no_correlation(tmp_path: Path) -> None:
    linear = RED_SQUARED.replace("** 2", "* 2")
    outcome = rank(tmp_path, with_brightness_order((1, 2, 3)), linear)
    assert outcome.reference_set.statistics["confounders"]["brightness"] is None
