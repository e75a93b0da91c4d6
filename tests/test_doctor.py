"""What `doctor` says is here and absent: against files that are there or taken away."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from minoritybench import doctor
from minoritybench.cli import cli
from minoritybench.doctor import diagnose, diagnosis_text
from minoritybench.embedded import weights
from minoritybench.errors import MissingAssetError
from minoritybench.evaluate_job import EvaluateRequest, prepare_job
from minoritybench.presence import benchmark_parts, find
from minoritybench.records import load_benchmark
from minoritybench.sample_job import SampleRequest


@pytest.fixture
def empty_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No weights of this machine: caches and working folder are empty."""
    monkeypatch.setenv("MINORITYBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lacks(facts: dict[str, Any], benchmark: str) -> dict[str, str]:
    one = next(one for one in facts["benchmarks"] if one["name"] == benchmark)
    assert one["ready"] == (not one["lacks"])
    return {f"{lack['role']} {lack['name']}": lack["get"] for lack in one["lacks"]}


def test_embedded_benchmarks_are_ready_and_others_say_what_they_lack(empty_hub: Path) -> None:
    facts = diagnose()
    assert lacks(facts, "digits") == lacks(facts, "digits-t2i") == {}
    sd15 = lacks(facts, "sd15-coco")
    assert set(sd15) == {
        "generator sd15",
        "reference set coco-captions-dinov2-vits14-reg",
        "images coco-captions",
        "prompts coco",
        "features vgg16-fc2",
        "CLIPScore clip-b16",
        "PickScore pickscore",
        "ImageReward imagereward",
        "guide dinov2-vits14-reg",
        "judge metaclip-b16",
    }
    assert "hf download facebook/dinov2-with-registers-small" in sd15["guide dinov2-vits14-reg"]
    assert all("\n" not in line for line in sd15.values())


def test_a_file_put_where_the_line_says_is_found(empty_hub: Path) -> None:
    before = {one["name"]: one for one in diagnose()["weights"]}
    assert not before["adm-imagenet64"]["here"]
    assert before["digits-jepa"]["here"]
    place = Path(before["adm-imagenet64"]["get"].rpartition(" to ")[2])
    place.parent.mkdir(parents=True)
    place.write_bytes(b"not opened")
    after = {one["name"]: one for one in diagnose()["weights"]}
    assert after["adm-imagenet64"]["here"]
    assert after["adm-imagenet64"]["get"] is None
    assert "upsampler" in after["adm-imagenet256-cascade"]["get"]
    assert "64x64_diffusion" not in after["adm-imagenet256-cascade"]["get"]


def test_a_wrong_file_is_told_as_such(empty_hub: Path) -> None:
    place = empty_hub / "cache" / "extractors" / "vgg16-fc2" / "vgg16-397923af.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"something else")
    assert "is not the published file" in lacks(diagnose(), "celeba64")["features vgg16-fc2"]


def test_embedded_weights_that_are_gone_are_told(empty_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = empty_hub / "weights"
    shutil.copytree(weights.weights_dir(), copied)
    (copied / "digits-jepa.safetensors").unlink()
    monkeypatch.setenv(weights.WEIGHTS_VARIABLE, str(copied))
    gone = lacks(diagnose(), "digits")
    assert list(gone) == ["guide digits-jepa"]
    assert "minoritybench.embedded.train" in gone["guide digits-jepa"]


@pytest.mark.slow
def test_it_says_what_evaluate_says(empty_hub: Path) -> None:
    """Each line of `doctor` stands in the one line that `evaluate` ends with."""
    with pytest.raises(MissingAssetError) as error:
        prepare_job(EvaluateRequest(SampleRequest("jepa", benchmark="cifar10")))
    told = str(error.value)
    lines = lacks(diagnose(), "cifar10")
    assert len(lines) == 8
    assert [role for role, line in lines.items() if line not in told] == []


@pytest.mark.parametrize("name", ["digits", "digits-t2i"])
def test_every_part_found_can_be_opened(name: str) -> None:
    benchmark = load_benchmark(name)
    for part in benchmark_parts(benchmark):
        part.find()
        part.open("cpu")
    find("generators", benchmark.generator)


def test_packages_that_are_absent_or_too_old_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requires", lambda name: ["numpy>=2", "torch>=99", "no-such-thing>=1", "x; extra=='y'"])
    facts = {one["name"]: one for one in doctor._packages()}
    assert [facts[name]["fits"] for name in ("numpy", "torch", "no-such-thing")] == [True, False, False]
    assert facts["no-such-thing"]["installed"] is None
    assert "x" not in facts
    text = "\n".join(map(doctor._package_line, facts.values()))
    assert "pip install 'torch>=99'" in text
    assert "pip install 'numpy" not in text


def test_text_and_json_tell_the_same(empty_hub: Path) -> None:
    done = CliRunner().invoke(cli, ["doctor", "--json"])
    facts = json.loads(done.stdout)
    text = diagnosis_text(facts)
    assert "  digits: ready" in text
    assert "  cifar10: lacks 8" in text
    assert "    reference set 'cifar10-dinov2-vits14-reg': recipe only" in text
    assert "    guide dinov2-vits14-reg: weights model.safetensors" in text


@pytest.mark.slow
def test_it_imports_no_library_of_networks() -> None:
    code = (
        "import sys; from minoritybench.doctor import diagnose; diagnose();"
        "print([m for m in ('transformers', 'diffusers', 'open_clip', 'timm', 'torchvision') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
