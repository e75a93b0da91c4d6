"""What a part was made from beside its settings: noted, and held against what is there now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minoritybench.diffusion.embedded import load_digits_ddpm
from minoritybench.errors import BadInputError
from minoritybench.methods import configure
from minoritybench.perceptual import BACKBONES, backbone_path
from minoritybench.prepare import Kit, Prepared, PrepareRequest, open_prepared, plan_parts, prepare_parts
from minoritybench.prepare.artefact import SHIPPED, read_document, save_prepared
from minoritybench.prepare.classifier import GuideClassifier, GuideConfig
from minoritybench.prepare.inputs import check_data
from minoritybench.prepare.job import part_identity
from minoritybench.records import load_benchmark
from minoritybench.store import sha256_bytes

SHORT: tuple[tuple[str, Any], ...] = (("iterations", 3), ("batch_size", 16))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINORITYBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "cache"


def paint(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)


def test_a_part_is_refused_once_its_negatives_are_other_files_and_force_builds_it_anew(tmp_path: Path) -> None:
    folder = tmp_path / "negatives"
    for number in range(8):
        paint(folder / f"{number}.png", number)
    settings = (*SHORT, ("negatives", str(folder)))
    (first,) = prepare_parts(PrepareRequest("sehwag", settings=settings))
    assert list(first.facts["inputs"]) == [f"dataset:{folder}"]
    (again,) = prepare_parts(PrepareRequest("sehwag", settings=settings))
    assert not again.built
    paint(folder / "8.png", 8)
    with pytest.raises(BadInputError, match=r"prepared from other files of .*negatives .* --force") as caught:
        prepare_parts(PrepareRequest("sehwag", settings=settings))
    assert caught.value.exit_code == 2
    (anew,) = prepare_parts(PrepareRequest("sehwag", settings=settings, force=True))
    assert anew.built
    assert anew.path == first.path
    assert anew.facts["inputs"] != first.facts["inputs"]
    assert not prepare_parts(PrepareRequest("sehwag", settings=settings))[0].built


def test_the_benchmarks_own_content_is_checked_and_is_no_negative_under_another_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    facts = {"dataset": {"name": "digits", "split": "train", "sha256": "0" * 64}}
    with pytest.raises(BadInputError, match="other files of digits"):
        check_data(Path("x"), facts, load_benchmark("digits"), None)
    monkeypatch.setattr("minoritybench.data.patches.PatchSource.fingerprint", lambda _: "1" * 64)
    monkeypatch.setattr("minoritybench.data.digits.DigitsSource.fingerprint", lambda _: "1" * 64)
    with pytest.raises(BadInputError, match="natural-patches is the benchmark's own dataset"):
        prepare_parts(PrepareRequest("sehwag", settings=SHORT))


def test_what_is_shipped_was_made_from_what_is_embedded() -> None:
    for path in SHIPPED.glob("*.safetensors"):
        check_data(path, read_document(path)["facts"], load_benchmark("digits"), None)


def test_sampling_refuses_a_part_scored_with_other_lpips_weights() -> None:
    benchmark, model = load_benchmark("digits"), load_digits_ddpm("digits-ddpm")
    method = configure("mg", {"levels": 3, "distance": "lpips-vgg"}, benchmark)
    identity = part_identity("levels", method, benchmark, model, "digits-ddpm")
    classifier = GuideClassifier(GuideConfig("film-mlp", (1, 8, 8), 3))
    facts = {"inputs": {"distance:lpips-vgg": sha256_bytes(b"one")}}
    save_prepared(identity.cached(), identity, Prepared(classifier, {}, facts))
    weights = backbone_path(BACKBONES["lpips-vgg"])
    assert open_prepared("levels", method, benchmark, model, "digits-ddpm", "cpu").sha256  # nothing to check against
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"one")
    assert open_prepared("levels", method, benchmark, model, "digits-ddpm", "cpu").sha256
    weights.write_bytes(b"two")
    with pytest.raises(BadInputError, match="other files of lpips-vgg"):
        open_prepared("levels", method, benchmark, model, "digits-ddpm", "cpu")


def test_the_weights_of_a_distance_are_noted_before_any_image_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = backbone_path(BACKBONES["lpips-vgg"])
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"one")
    noted = []

    def stop(kit: Kit, **_: Any) -> None:
        noted.append(kit.facts["inputs"])
        raise BadInputError("enough")

    monkeypatch.setattr(Kit, "images", stop)
    with pytest.raises(BadInputError, match="enough"):
        prepare_parts(PrepareRequest("mg", settings=(*SHORT, ("distance", "lpips-vgg"))))
    assert noted == [{"distance:lpips-vgg": sha256_bytes(b"one")}]


def test_a_generator_of_a_users_file_counts_with_its_code(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def load(name, *, device='cpu', dtype='float32'):\n"
        "    from minoritybench.diffusion.embedded import load_digits_ddpm\n"
        "    return load_digits_ddpm('digits-ddpm')\n"
    )
    request = PrepareRequest("mg", generator=f"{file}:load", settings=SHORT)
    before = plan_parts(request)[0].identity
    assert list(before.code) == [f"{file}:load"]
    file.write_text(file.read_text() + "# changed\n")
    assert plan_parts(request)[0].identity.file_name != before.file_name
