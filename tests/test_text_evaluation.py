"""Text-to-image samples evaluated: metrics of image and prompt, given samples, record checks, paired differences."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from forged_records import forge_sidecar, forged, nudge, saved
from PIL import Image
from scipy import stats
from tiny_clip import tiny_images, tiny_model, tiny_tokenizer, write_model, write_tokenizer
from toy_text import PROMPTS, text_benchmark

import minoritybench
from minoritybench import evaluate_job, leaderboards, record_checks, sample_job
from minoritybench.errors import BadInputError, MissingAssetError
from minoritybench.metrics.clip_score import MODELS, Backbone
from minoritybench.records import BenchmarkSpec, RunRecord, load_record
from minoritybench.report.board import board_markdown
from minoritybench.report.sample_gallery import write_sample_gallery
from minoritybench.report.tables import board_data, is_declared

CLIP = {"metric": "CLIPScore", "model": "tiny"}
KEY = "text/CLIPScore/tiny"


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BenchmarkSpec]:
    """A text benchmark called digits, its CLIP among the known ones."""
    folder = tmp_path_factory.mktemp("clip")
    write_model(folder)
    tiny_images().save_pretrained(folder)
    write_tokenizer(folder)
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    made = text_benchmark(CLIP, "precision")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(MODELS, "tiny", Backbone(lambda name: folder / "model.safetensors", 1))
        for module in (evaluate_job, sample_job, leaderboards, record_checks):
            known = module.load_benchmark
            patch.setattr(module, "load_benchmark", lambda name, known=known: made if name == "digits" else known(name))
        yield made


@pytest.fixture(scope="module")
def runs(spec: BenchmarkSpec, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished runs that claim a clean commit, by method."""
    folder = tmp_path_factory.mktemp("runs")
    for method in ("ddim", "adm"):
        record = minoritybench.evaluate(method, out=folder / method)
        clean = record.minoritybench.model_copy(update={"commit": "0" * 40, "dirty": False})
        saved(record.model_copy(update={"minoritybench": clean}), folder / method / "record.json")
    return {method: folder / method for method in ("ddim", "adm")}


def values(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "per_image.parquet")


def cosine(path: Path, prompt: str) -> float:
    """100 times the cosine by the towers of the tiny CLIP themselves."""
    model = tiny_model()
    pixels = tiny_images()(images=[Image.open(path).convert("RGB")], return_tensors="pt")["pixel_values"]
    ids = torch.tensor([tiny_tokenizer()(prompt)["input_ids"]])
    with torch.no_grad():
        left = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)[0]
        right = model.text_projection(model.text_model(input_ids=ids).last_hidden_state[0, -1])
    return max(0.0, 100 * float(left @ right / left.norm() / right.norm()))


def test_every_image_is_scored_with_its_own_prompt(runs: dict[str, Path]) -> None:
    table, record = values(runs["ddim"]), load_record(runs["ddim"] / "record.json")
    assert table["prompt"].tolist() == [*PROMPTS, *PROMPTS]
    for row in (0, 7, 17):
        path = runs["ddim"] / "samples" / f"seed-{table['seed'][row]}" / f"{table['index'][row]:05d}.png"
        assert table[KEY][row] == pytest.approx(cosine(path, table["prompt"][row]), abs=1e-4)
    assert np.ptp(table[KEY]) > 1
    metric = record.metric("CLIPScore")
    assert metric is not None
    assert metric.per_seed == {str(seed): table.loc[table["seed"] == seed, KEY].mean() for seed in (0, 1)}
    assert metric.params["model"] == "tiny"
    assert len(metric.params["weights_sha256"]) == 64
    assert [m.name for m in record.metrics][:2] == ["CLIPScore", "precision"]


def test_scores_do_not_depend_on_how_many_are_measured_at_a_time(runs: dict[str, Path], tmp_path: Path) -> None:
    minoritybench.evaluate("ddim", out=tmp_path / "x", batch_size=1)
    pd.testing.assert_frame_equal(values(tmp_path / "x"), values(runs["ddim"]), check_exact=True)


def test_given_samples_take_their_prompts_from_the_manifest(runs: dict[str, Path], tmp_path: Path) -> None:
    record = minoritybench.evaluate(samples=runs["ddim"] / "samples" / "seed-1", out=tmp_path / "one")
    metric, drawn = record.metric("CLIPScore"), load_record(runs["ddim"] / "record.json").metric("CLIPScore")
    assert metric is not None
    assert drawn is not None
    assert metric.value == drawn.per_seed["1"]
    scores = values(tmp_path / "one")[KEY].to_numpy()
    half = stats.t.ppf(0.975, len(scores) - 1) * stats.sem(scores)
    assert metric.interval == "t over images"
    assert metric.ci_high == pytest.approx(metric.value + half)
    whole = minoritybench.evaluate(samples=runs["ddim"], out=tmp_path / "both").metric("CLIPScore")
    assert whole is not None
    assert whole.value == pytest.approx(drawn.value)


@pytest.fixture
def flat(runs: dict[str, Path], tmp_path: Path) -> Path:
    """One seed's images as `0.png` ... `11.png`, no manifest."""
    folder = tmp_path / "flat"
    folder.mkdir()
    for index in range(12):
        shutil.copy(runs["ddim"] / "samples" / "seed-0" / f"{index:05d}.png", folder / f"{index}.png")
    return folder


def test_given_samples_without_a_manifest_take_lines_in_natural_order(
    runs: dict[str, Path], flat: Path, tmp_path: Path
) -> None:
    minoritybench.evaluate(samples=flat, out=tmp_path / "out")
    table = values(tmp_path / "out")
    numbers = [0, 1, 10, 11, *range(2, 10)]  # as the images are listed
    assert table["prompt"].tolist() == [PROMPTS[number] for number in numbers]
    assert table[KEY].tolist() == values(runs["ddim"])[KEY].to_numpy()[numbers].tolist()
    minoritybench.evaluate(samples=flat, n=8, out=tmp_path / "few")
    assert values(tmp_path / "few")["prompt"].tolist() == table["prompt"].tolist()[:8]


def test_prompts_that_do_not_fit_given_samples_are_one_line(
    spec: BenchmarkSpec, runs: dict[str, Path], flat: Path, tmp_path: Path
) -> None:
    (tmp_path / "short.txt").write_text("a one\na two\n")
    with pytest.raises(BadInputError, match=r"12 images, but short.txt has 2 prompts"):
        minoritybench.evaluate(samples=flat, prompts=tmp_path / "short.txt")
    with pytest.raises(BadInputError, match="names other prompts"):
        minoritybench.evaluate(samples=runs["ddim"], prompts=tmp_path / "short.txt")
    (flat / "samples.json").write_text(json.dumps([{"file": "0.png", "prompt": "a one"}]))
    with pytest.raises(BadInputError, match=r"does not list 1\.png"):
        minoritybench.evaluate(samples=flat)
    with pytest.raises(BadInputError, match="no text-to-image one"):
        minoritybench.evaluate(samples=flat, prompts="x", benchmark="celeba64")


def test_all_that_is_absent_is_told_at_once(
    spec: BenchmarkSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lacking = text_benchmark("CLIPScore", "PickScore")
    for module in (evaluate_job, sample_job):
        monkeypatch.setattr(module, "load_benchmark", lambda name: lacking)
    with pytest.raises(MissingAssetError) as caught:
        minoritybench.evaluate("ddim", prompts="hf:someone/captions:absent.txt", out=tmp_path / "x")
    for name in ("absent.txt", "clip-b16", "pickscore"):
        assert name in str(caught.value)


def faults(folder: Path) -> list[str]:
    return leaderboards.record_faults(folder / "record.json")


def copied(folder: Path, tmp_path: Path) -> Path:
    target = tmp_path / "copy"
    for name in ("record.json", "per_image.parquet", "sheet.png"):
        target.mkdir(exist_ok=True)
        shutil.copy(folder / name, target / name)
    return target


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (forged("sampling.text", {}), "sampling.text: prompts: Field required"),
        (forged("sampling.text.prompts_sha256", "0" * 64), "the prompts of seed 0 are not those of sampling.text"),
        (forged("sampling.text.ending", "soon"), "sampling.text: ending"),
        (forged("sampling.text.prompts", "a | <img>"), "prompts is 'a | <img>', with characters that cannot stand"),
        (forged("sampling.spacing", "50"), "sampling.spacing is '50'"),
        (forge_sidecar(nudge(KEY)), "metric 'CLIPScore' of seed 0 is"),
        (forge_sidecar(lambda t: t.assign(prompt="a one")), "the prompts of seed 0"),
        (forge_sidecar(lambda t: t.drop(columns=KEY)), "has other columns"),
    ],
)
def test_a_record_at_odds_with_its_prompts_or_scores_is_refused(
    runs: dict[str, Path], tmp_path: Path, change: object, said: str
) -> None:
    folder = copied(runs["adm"], tmp_path)
    assert faults(folder) == []
    change(folder / "record.json")  # type: ignore[operator]
    assert said in "; ".join(faults(folder))


def test_other_chain_settings_are_a_row_of_their_own(
    spec: BenchmarkSpec, runs: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(runs["adm"], tmp_path)
    forged("sampling.text.guidance_scale", 7.5)(folder / "record.json")
    other, plain = load_record(folder / "record.json"), load_record(runs["adm"] / "record.json")
    assert (is_declared(plain, spec), is_declared(other, spec)) == (True, False)
    page = board_markdown(board_data(spec, [plain, other]))
    assert "| adm (guidance_scale=7.5) |" in page.partition("### Other settings, not ranked")[2]
    assert page.count("| adm |") == 1


def test_board_shows_the_difference_to_ddim_prompt_by_prompt(
    spec: BenchmarkSpec, runs: dict[str, Path], tmp_path: Path
) -> None:
    boards = tmp_path / "leaderboards"
    for folder in runs.values():
        leaderboards.add(folder / "record.json", boards / "results")
    leaderboards.write_boards(boards / "results", boards)
    assert leaderboards.check(boards / "results", boards) == []
    section = (boards / "digits.md").read_text().partition("### Difference to ddim, image by image")[2]
    head, _, row = (line.split(" | ") for line in section.strip().split("\n")[:3])
    assert head[:2] == ["| method", "CLIPScore ↑"]
    assert row[0] == "| adm"
    for column, key in (("CLIPScore ↑", KEY), ("JEPA-SCORE ↓", "score/digits-jepa/reference")):
        gaps = (values(runs["adm"])[key] - values(runs["ddim"])[key]).groupby(values(runs["ddim"])["prompt"]).mean()
        low, high = stats.t.interval(0.95, len(gaps) - 1, gaps.mean(), stats.sem(gaps))
        word = ", higher" if low > 0 else ", lower" if high < 0 else ""
        assert row[head.index(column)].strip(" |") == f"{gaps.mean():+.2f} ± {high - gaps.mean():.2f}{word}"


def test_rows_without_the_same_prompts_or_seeds_are_not_paired(spec: BenchmarkSpec, runs: dict[str, Path]) -> None:
    plain, other = (load_record(runs[name] / "record.json") for name in ("ddim", "adm"))

    def dashes(record: RunRecord) -> int:
        page = board_markdown(board_data(spec, [plain, record], lambda record: pytest.fail("read")))
        return page.partition("image by image")[2].partition("\n\n###")[0].count("| –")

    sampling = other.sampling.model_copy(update={"seeds": [0, 2]})
    assert dashes(other.model_copy(update={"sampling": sampling})) > 3
    text = {**other.sampling.text, "prompts_sha256": "0" * 64}
    sampling = other.sampling.model_copy(update={"text": text})
    assert dashes(other.model_copy(update={"sampling": sampling})) > 3


def test_finished_evaluations_stand_side_by_side(runs: dict[str, Path], tmp_path: Path) -> None:
    assert write_sample_gallery(list(runs.values()), tmp_path / "page.html", 1, 5) == 5
    page = (tmp_path / "page.html").read_text()
    assert all(f'alt="{method}: {prompt}"' in page for method in runs for prompt in PROMPTS[:5])
