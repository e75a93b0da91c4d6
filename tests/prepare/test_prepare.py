"""minoritybench prepare and what samples with its parts, as a user meets them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import minoritybench
from minoritybench.diffusion.embedded import DigitsDdpm
from minoritybench.errors import BadInputError, MinorityBenchError, MissingAssetError
from minoritybench.prepare import PrepareRequest, plan_parts, prepare_parts
from minoritybench.sample_job import SampleRequest, open_sampler
from minoritybench.store import sha256_file

SMALL = ("--set", "levels=3", "--set", "iterations=40", "--set", "n_iter=1", "--set", "batch_size=32")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINORITYBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "minoritybench", *words]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300, check=False)


def digests(out: Path) -> list[str]:
    return [row["sha256"] for row in json.loads((out / "samples.json").read_text())]


@pytest.mark.slow
def test_missing_part_exits_four_with_a_command_that_mends_it(cache: Path, tmp_path: Path) -> None:
    words = ("sample", "--method", "mg", *SMALL, "--n", "4", "--seed", "5", "--out", str(tmp_path / "s"))
    done = run(*words)
    assert done.returncode == 4
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "s").exists()
    command = done.stderr.split("`")[1].split()
    built = run(*command[1:], "--json")
    assert built.returncode == 0, built.stderr
    (part,) = json.loads(built.stdout)
    assert part["built"] is True
    assert part["sha256"] == sha256_file(Path(part["path"]))
    assert Path(part["path"]).is_relative_to(cache)
    assert 0 <= part["facts"]["held_out"]["accuracy"]["0"] <= 1
    again = json.loads(run(*command[1:], "--json").stdout)
    assert again == [{**part, "built": False, "seconds": 0.0}]


def test_dry_run_says_what_is_there_and_builds_nothing(cache: Path) -> None:
    done = run("prepare", "sehwag", "--class-conditional", "--set", "bands=3", "--dry-run")
    assert done.returncode == 0
    jobs = {job["part"]: job["there"] for job in json.loads(done.stdout)}
    assert jobs == {"fidelity": True, "hardness": False}
    assert not cache.exists()


def test_a_method_without_parts_needs_nothing(cache: Path) -> None:
    done = run("prepare", "adm")
    assert (done.returncode, done.stdout) == (0, "adm needs nothing prepared on digits\n")


def test_a_mistake_gets_one_line_on_stderr(cache: Path) -> None:
    done = run("prepare", "mg", "--set", "level=3")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'levels'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("method", "settings", "options", "code", "message"),
    [
        ("mgg", {}, {}, 2, "did you mean"),
        ("mg", {}, {"benchmark": "digit"}, 2, "did you mean 'digits'"),
        ("mg", {"levels": 400, "n_iter": 1}, {"class_conditional": True}, 2, "of class 0"),
        ("mg", {"levels": 3}, {"root": "/nowhere"}, 2, "digits is embedded"),
        ("sehwag", {"negatives": "imagenet"}, {}, 4, "image-net"),
        ("mg", {"distance": "lpips-vgg"}, {}, 4, "vgg16"),
    ],
)
def test_what_cannot_be_prepared_is_said_in_one_line(
    method: str,
    settings: dict[str, Any],
    options: dict[str, Any],
    code: int,
    message: str,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(cache / "torch"))
    with pytest.raises(MinorityBenchError, match=message) as caught:
        prepare_parts(PrepareRequest(method, settings=tuple(settings.items()), **options))
    assert caught.value.exit_code == code
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_killed_preparation_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    words = ["prepare", "sehwag", "--class-conditional", "--set", "beta=0", "--set", "iterations=600"]
    words += ["--set", "fitted=500", "--set", "bands=2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    first = run(*words, "--json", MINORITYBENCH_CACHE=str(whole))
    (part,) = json.loads(first.stdout)
    child = subprocess.Popen(
        [sys.executable, "-m", "minoritybench", *words],
        env={**os.environ, "MINORITYBENCH_CACHE": str(killed)},
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(killed.rglob("checkpoint.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not list(killed.rglob("*.safetensors"))
    (checkpoint,) = killed.rglob("checkpoint.pt")
    resumed = run(*words, "--json", MINORITYBENCH_CACHE=str(killed))
    assert "resuming at step" in resumed.stderr
    (again,) = json.loads(resumed.stdout)
    assert again["sha256"] == part["sha256"]
    assert Path(again["path"]).read_bytes() == Path(part["path"]).read_bytes()
    assert not checkpoint.parent.exists()


@pytest.mark.slow
def test_the_digest_does_not_depend_on_workers_or_force(cache: Path) -> None:
    settings = (("generated", 200), ("iterations", 30), ("fitted", 300), ("alpha", 0))
    options: dict[str, Any] = {"settings": settings, "class_conditional": True, "force": True}
    first, second = (prepare_parts(PrepareRequest("sehwag", workers=workers, **options)) for workers in (1, 2))
    assert [part.sha256 for part in first] == [part.sha256 for part in second]
    assert all(part.built for part in [*first, *second])


def test_user_methods_can_be_prepared(cache: Path, tmp_path: Path) -> None:
    """A method of a user's file names its part, builds it with the kit and finds it while sampling."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "import numpy as np\n"
        "@dataclass(frozen=True)\n"
        "class Mine:\n"
        "    bright: float = 0.4\n"
        "    parts = {'ink': ('bright',)}\n"
        "    def needs(self, class_conditional):\n"
        "        return {'prepared:ink'}\n"
        "    def ink(self, bench, x0, labels, indices):\n"
        "        return (x0.flatten(1).mean(dim=1) + 1) / 2\n"
        "    def prepare(self, part, kit):\n"
        "        from minoritybench.prepare import TrainingRecipe\n"
        "        images = kit.images()\n"
        "        ink = kit.per_image(self.ink, images)\n"
        "        recipe = TrainingRecipe(iterations=20, batch_size=32, augment='none')\n"
        "        targets = (ink > np.quantile(ink, self.bright)).astype(np.int64)\n"
        "        return kit.finished(kit.train(images, targets, 2, recipe))\n"
        "    def correct(self, step):\n"
        "        part = step.resources['prepared:ink']\n"
        "        assert part.logits(step.x_t, step.timestep, None).shape == (64, 2)\n"
    )
    method = f"{file}:Mine"
    with pytest.raises(MissingAssetError, match="minoritybench prepare"):
        minoritybench.sample(method, tmp_path / "s", n=2, seeds=(0,))
    (part,) = prepare_parts(PrepareRequest(method))
    assert part.built
    minoritybench.sample(method, tmp_path / "s", n=2, seeds=(0,))
    minoritybench.sample("adm", tmp_path / "adm", n=2, seeds=(0,))
    assert digests(tmp_path / "s") == digests(tmp_path / "adm")
    file.write_text(file.read_text() + "# changed\n")
    assert not plan_parts(PrepareRequest(method))[0].there


def test_a_need_without_a_recipe_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Mine:\n    requires = frozenset({'prepared:x'})\n"
    )
    with pytest.raises(BadInputError, match="does not say how it is prepared"):
        plan_parts(PrepareRequest(f"{file}:Mine"))


@pytest.mark.parametrize("class_conditional", [False, True])
@pytest.mark.parametrize(
    ("method", "off"), [("mg", {"w": 0}), ("sehwag", {"scale": 0, "alpha": 0, "beta": 0})], ids=["mg", "sehwag"]
)
def test_shipped_parts_guide_and_scale_zero_equals_adm_bit_for_bit(
    method: str, off: dict[str, Any], class_conditional: bool, cache: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"n": 8, "seeds": (5,), "class_conditional": class_conditional}
    minoritybench.sample("adm", tmp_path / "adm", **options)
    minoritybench.sample(method, tmp_path / "off", settings=off, **options)
    outcome = minoritybench.sample(method, tmp_path / "on", **options)
    assert digests(tmp_path / "off") == digests(tmp_path / "adm")
    assert not set(digests(tmp_path / "on")) & set(digests(tmp_path / "adm"))
    classifiers = 2 if method == "sehwag" and class_conditional else 1
    assert outcome.passes["classifier_forward"] == outcome.passes["classifier_backward"] == 50 * classifiers
    assert outcome.passes["denoiser_forward"] == 50
    assert not cache.exists()


@pytest.mark.parametrize(
    ("method", "parts"), [("mg", {"levels-by-class"}), ("sehwag", {"hardness", "fidelity"})], ids=["mg", "sehwag"]
)
def test_a_network_that_requires_labels_gets_the_parts_that_sampling_asks_for(
    method: str, parts: set[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DigitsDdpm, "requires_labels", True, raising=False)
    assert {job.identity.part for job in plan_parts(PrepareRequest(method))} == parts
    assert set(open_sampler(SampleRequest(method)).needs) == {f"prepared:{part}" for part in parts}


def test_mg_of_the_official_code_is_prepared_for_a_network_that_requires_labels(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DigitsDdpm, "requires_labels", True, raising=False)
    plain = DigitsDdpm.predict

    def strict(self: DigitsDdpm, x_t: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        return plain(self, x_t, timestep, labels)

    monkeypatch.setattr(DigitsDdpm, "predict", strict)
    settings = {"preset": "official-code", "n_iter": 1, "iterations": 5, "batch_size": 32}
    (part,) = prepare_parts(PrepareRequest("mg", settings=tuple(settings.items())))
    assert (part.part, part.built) == ("levels", True)


def test_states_that_no_classifier_fits_are_refused_when_the_plan_is_made(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DigitsDdpm, "state_shape", (1, 28, 28))
    with pytest.raises(BadInputError, match="no classifier architecture"):
        plan_parts(PrepareRequest("mg"))
    assert plan_parts(PrepareRequest("adm")) == []
