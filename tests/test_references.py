"""Reference sets on disk: odd names, broken files, images that were moved."""

from __future__ import annotations

import json
import shlex
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

import minoritybench
from minoritybench.cli.rank import command as rank
from minoritybench.cli.verify import command as verify
from minoritybench.errors import BadInputError, CheckFailedError, MissingAssetError
from minoritybench.records import load_protocol
from minoritybench.references import MEMBER_COLUMNS, csv_text, load_reference_set
from minoritybench.registry import entries

ODD_NAMES = [
    "a,b.png",
    'q"uote.png',
    "new\nline.png",
    "carriage\rreturn.png",
    "both\r\n.png",
    " space .png",
    "\u65e5.png",
]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ODD_NAMES:
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def ranked(images: Path, tmp_path: Path) -> Path:
    minoritybench.rank_dataset(str(images), out=tmp_path / "ranked", keep="100%")
    return tmp_path / "ranked"


def test_names_with_line_breaks_survive_members_csv(ranked: Path) -> None:
    loaded = load_reference_set(ranked)
    assert sorted(loaded.members["id"]) == sorted(ODD_NAMES)
    assert len(loaded.images()) == len(ODD_NAMES)


def test_csv_of_plain_tables_is_that_of_pandas() -> None:
    rows = [[1, 'a"b,c', "00ff", -37.269064169487805, 1e-05], [2, "d\ne", "", 3.0, float("nan")]]
    frame = pd.DataFrame(rows, columns=MEMBER_COLUMNS)
    assert csv_text(frame) == frame.to_csv(index=False, lineterminator="\n")
    assert csv_text(frame.head(0)) == "rank,id,sha256,score,score_deflated\n"


def edited(folder: Path, name: str, document: Any) -> Path:
    (folder / name).write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize("field", ["dataset", "encoder"])
def test_recipe_without_its_facts_is_one_line(ranked: Path, field: str) -> None:
    recipe = json.loads((ranked / "reference_set.json").read_text())
    with pytest.raises(BadInputError, match=rf"reference_set.json: {field}.name is absent"):
        load_reference_set(edited(ranked, "reference_set.json", {**recipe, field: {}}))


@pytest.mark.parametrize("document", [[], {"dataset": []}, {"dataset": {"root": 3}}, "text"])
def test_plan_that_is_none_is_one_line(ranked: Path, document: Any) -> None:
    with pytest.raises(BadInputError, match="not a plan of rank-dataset"):
        load_reference_set(edited(ranked, "plan.json", document))


def test_verify_says_what_is_missing_and_takes_the_new_place(ranked: Path, images: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    images.rename(moved)
    with pytest.raises(MissingAssetError, match=rf"7 images are no longer in {images}; .*--root DIR"):
        load_reference_set(ranked).images()
    done = CliRunner().invoke(verify, [str(ranked), "--root", str(moved)])
    assert done.exit_code == 0
    assert "all images present and unchanged" in done.output
    (moved / "a,b.png").unlink()
    with pytest.raises(CheckFailedError, match=r"1 of its 7 images are not in .*elsewhere, the first is a,b.png"):
        load_reference_set(ranked, moved).images()


def test_altered_and_broken_members_are_failed_checks(ranked: Path, images: Path) -> None:
    (images / "a,b.png").write_bytes(b"no")
    with pytest.raises(CheckFailedError, match=r"a,b.png of the reference set can no longer be read"):
        load_reference_set(ranked).images()
    shutil.copy(images / 'q"uote.png', images / "a,b.png")
    with pytest.raises(CheckFailedError, match=r"a,b.png differs"):
        load_reference_set(ranked).images()


def test_reference_set_without_its_plan_asks_for_the_root(ranked: Path, images: Path) -> None:
    (ranked / "plan.json").unlink()
    with pytest.raises(MissingAssetError, match="--root DIR"):
        load_reference_set(ranked).images()
    assert len(load_reference_set(ranked, images).images()) == 7


UNBUILT = sorted(name for name, entry in entries("reference-sets").items() if entry.summary.startswith("recipe only"))


@pytest.mark.parametrize("name", UNBUILT)
def test_unbuilt_reference_set_says_how_to_build_it_and_where_it_goes(name: str, tmp_path: Path) -> None:
    protocol = load_protocol(Path(str(files("minoritybench.reference_sets"))) / name / "recipe.toml")
    with pytest.raises(MissingAssetError, match="recipe only, not measured") as error:
        load_reference_set(name)
    assert f"`{protocol.command}`" in str(error.value)
    assert str(Path.cwd() / protocol.out) in str(error.value)
    words = shlex.split(protocol.command)
    assert words[:2] == ["minoritybench", "rank-dataset"]
    with rank.make_context("rank-dataset", words[2:]) as parsed:
        assert parsed.params["dataset"] == protocol.dataset
        assert parsed.params["split"] == protocol.split == "train"
        assert parsed.params["encoder"] == protocol.encoder
        assert parsed.params["keep"] == str(protocol.keep) == "10000"
        assert parsed.params["out"] == Path(protocol.out)
    assert protocol.name == name == f"{protocol.dataset}-{protocol.encoder}"
    assert protocol.encoder in entries("encoders")
    assert {path.name for path in Path(str(files("minoritybench.reference_sets"))).joinpath(name).iterdir()} == {
        "recipe.toml"
    }


def test_the_papers_two_datasets_have_both_encoders() -> None:
    assert [
        f"{dataset}-{encoder}"
        for dataset in ("celeba", "imagenet")
        for encoder in ("dinov2-vits14", "dinov2-vits14-reg")
    ] == [name for name in UNBUILT if not name.startswith(("cifar10-", "coco-"))]


def test_broken_recipe_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("name = ")
    with pytest.raises(BadInputError, match=r"recipe.toml is not readable TOML"):
        load_reference_set(tmp_path)
    (tmp_path / "recipe.toml").write_text('name = "x"')
    with pytest.raises(BadInputError, match=r"recipe.toml: status"):
        load_reference_set(tmp_path)
