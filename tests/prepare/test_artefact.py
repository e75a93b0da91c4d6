"""Prepared parts as files: names, refusals, what the package ships."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from minoritybench.diffusion.embedded import load_digits_ddpm
from minoritybench.errors import BadInputError, MissingAssetError
from minoritybench.methods import configure
from minoritybench.prepare import Prepared, open_prepared
from minoritybench.prepare.artefact import SHIPPED, Identity, load_prepared, read_document, save_prepared
from minoritybench.prepare.classifier import GuideClassifier, GuideConfig
from minoritybench.prepare.job import part_identity, prepare_command
from minoritybench.prepare.ship import CARD
from minoritybench.records import load_benchmark
from minoritybench.store import sha256_file

IDENTITY = Identity("mg", "levels", "toy", "toy-ddpm", "a" * 64, {"levels": 3})


def toy_classifier(outputs: int = 3) -> GuideClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = GuideClassifier(GuideConfig("film-mlp", (1, 8, 8), outputs))
    return net.half().float().eval().requires_grad_(False)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINORITYBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def open_part(method: str, part: str, **settings: Any) -> Any:
    benchmark = load_benchmark("digits")
    return open_prepared(
        part, configure(method, settings, benchmark), benchmark, load_digits_ddpm("digits-ddpm"), "digits-ddpm", "cpu"
    )


def test_a_part_reads_back_equal_and_its_bytes_depend_on_content_alone(tmp_path: Path) -> None:
    part = Prepared(toy_classifier(), {"thresholds": torch.tensor([[0.5, 1.25]]).half()}, {"held_out": {"chance": 0.4}})
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_prepared(first, IDENTITY, part)
    save_prepared(second, IDENTITY, part)
    assert first.read_bytes() == second.read_bytes()
    back = load_prepared(first, IDENTITY, "cpu")
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(back.logits(x, 500, None), part.logits(x, 500, None))
    assert back.tensors["thresholds"].tolist() == [[0.5, 1.25]]
    assert back.tensors["thresholds"].dtype == torch.float32
    assert back.facts == {"held_out": {"chance": 0.4}}
    assert not any(p.requires_grad for p in back.classifier.parameters())


@pytest.mark.parametrize(
    "other",
    [
        Identity("mg", "levels", "toy", "toy-ddpm", "b" * 64, {"levels": 3}),
        Identity("mg", "levels", "toy", "toy-ddpm", "a" * 64, {"levels": 4}),
        Identity("mg", "levels", "toy", "toy-ddpm", "a" * 64, {"levels": 3}, seed=1),
    ],
)
def test_other_weights_settings_and_seeds_have_other_names_and_are_refused(other: Identity, tmp_path: Path) -> None:
    assert other.file_name != IDENTITY.file_name
    path = tmp_path / IDENTITY.file_name
    save_prepared(path, other, Prepared(toy_classifier()))
    with pytest.raises(BadInputError, match="other settings or other generator weights"):
        load_prepared(path, IDENTITY, "cpu")


def test_a_file_that_is_no_part_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"not safetensors")
    with pytest.raises(BadInputError, match="is not a prepared part") as caught:
        read_document(path)
    assert "\n" not in str(caught.value)


def test_levels_50_never_takes_the_part_of_5(empty_cache: Path) -> None:
    assert open_part("mg", "levels").value.classifier.config.outputs == 5
    with pytest.raises(MissingAssetError) as caught:
        open_part("mg", "levels", levels=50)
    message = str(caught.value)
    assert "`minoritybench prepare mg --benchmark digits --set levels=50`" in message
    assert "\n" not in message
    assert caught.value.exit_code == 4


def test_settings_that_preparation_does_not_depend_on_share_a_part() -> None:
    plain = open_part("mg", "levels")
    assert open_part("mg", "levels", w=1, lowest_level=2, within_class=False).sha256 == plain.sha256


def test_the_command_names_preset_settings_and_classes() -> None:
    benchmark = load_benchmark("digits")
    model = load_digits_ddpm("digits-ddpm")
    method = configure("mg", {"preset": "paper", "n_iter": 2, "distance": "lpips-vgg"}, benchmark)
    words = prepare_command("levels-by-class", method, benchmark, "digits-ddpm").split()
    assert words[:5] == ["minoritybench", "prepare", "mg", "--benchmark", "digits"]
    assert set(words[5:]) == {"--set", "preset=paper", "n_iter=2", "distance=lpips-vgg", "--class-conditional"}
    assert "--generator other" in prepare_command("levels", method, benchmark, "other")
    # the command's own settings lead to the very part that is missing
    pairs = dict(word.split("=") for word in words[5:] if "=" in word)
    again = configure("mg", pairs, benchmark)
    assert part_identity("levels-by-class", again, benchmark, model, "digits-ddpm") == part_identity(
        "levels-by-class", method, benchmark, model, "digits-ddpm"
    )


def test_a_part_in_the_cache_is_found_and_one_of_other_weights_there_is_not(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark, model = load_benchmark("digits"), load_digits_ddpm("digits-ddpm")
    method = configure("mg", {"levels": 3}, benchmark)
    identity = part_identity("levels", method, benchmark, model, "digits-ddpm")
    save_prepared(identity.cached(), identity, Prepared(toy_classifier()))
    assert identity.cached().is_relative_to(empty_cache / "prepared" / "digits" / "mg")
    assert open_prepared("levels", method, benchmark, model, "digits-ddpm", "cpu").sha256 == sha256_file(
        identity.cached()
    )
    model.weights_sha256 = "0" * 64  # the generator was trained anew
    with pytest.raises(MissingAssetError):
        open_prepared("levels", method, benchmark, model, "digits-ddpm", "cpu")


def test_what_is_shipped_is_small_complete_and_as_its_card_says() -> None:
    files = sorted(SHIPPED.glob("*.safetensors"))
    assert {read_document(path)["identity"]["part"] for path in files} == {
        "levels",
        "levels-by-class",
        "hardness",
        "fidelity",
        "ood",
    }
    assert sum(path.stat().st_size for path in files) < 1_500_000
    card = (SHIPPED / CARD).read_text("utf-8")
    for path in files:
        row = next(line for line in card.splitlines() if line.startswith(f"| {path.stem} "))
        assert str(path.stat().st_size) in row
        assert sha256_file(path)[:16] in row
        held = read_document(path)["facts"]["held_out"]
        assert [f"{value:.3f}" for value in held["accuracy"].values()] == re.findall(r"\d\.\d{3}", row)[:4]
        assert held["accuracy"]["0"] > held["chance"] + 0.1


def test_shipped_parts_are_those_of_the_benchmarks_settings(empty_cache: Path) -> None:
    for name in ("mg", "sehwag"):
        method = configure(name, {}, load_benchmark("digits"))
        for class_conditional in (False, True):
            for need in method.needs(class_conditional):
                assert open_part(name, need.partition(":")[2]).sha256
    assert not empty_cache.exists()


def test_a_shipped_part_of_another_generator_is_not_used(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under its right name, but made for other weights than its metadata says: refused, not used."""
    benchmark, model = load_benchmark("digits"), load_digits_ddpm("digits-ddpm")
    method = configure("mg", {}, benchmark)
    identity = part_identity("levels", method, benchmark, model, "digits-ddpm")
    monkeypatch.setattr("minoritybench.prepare.artefact.SHIPPED", tmp_path)
    target = tmp_path / identity.file_name
    shutil.copy(SHIPPED / part_identity("levels-by-class", method, benchmark, model, "digits-ddpm").file_name, target)
    with pytest.raises(BadInputError, match=re.escape(identity.file_name)):
        open_prepared("levels", method, benchmark, model, "digits-ddpm", "cpu")


def test_metadata_is_canonical_json() -> None:
    document = read_document(next(iter(SHIPPED.glob("*.safetensors"))))
    assert json.loads(json.dumps(document)) == document
    assert document["identity"]["generator"]["weights_sha256"] == load_digits_ddpm("digits-ddpm").weights_sha256
    assert len(document["facts"]["dataset"]["sha256"]) == 64
