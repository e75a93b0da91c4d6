"""Sampling: the same images whatever the batch size, worker count or interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minoritybench
from minoritybench.data.digits import DigitsSource
from minoritybench.data.source import SourceSpec
from minoritybench.errors import BadInputError, MissingAssetError
from minoritybench.sample_job import SampleRequest, make_plan
from minoritybench.sample_shard import to_pixels


def digests(out: Path) -> list[str]:
    return [row["sha256"] for row in json.loads((out / "samples.json").read_text())]


@pytest.mark.parametrize("method", ["adm", "jepa"])
def test_images_do_not_depend_on_batch_size(method: str, tmp_path: Path) -> None:
    found = []
    for batch_size in (None, 1, 7, 256):
        out = tmp_path / str(batch_size)
        minoritybench.sample(method, out, n=20, seeds=(5,), batch_size=batch_size)
        found.append(digests(out))
    assert all(other == found[0] for other in found[1:])
    assert len(set(found[0])) == 20


@pytest.mark.slow
def test_images_do_not_depend_on_workers_or_a_kill(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "minoritybench", "sample", "--method", "jepa", "--n", "600", "--seed", "3"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*words, "--out", str(whole), "--workers", "2"], check=True, capture_output=True)
    child = subprocess.Popen([*words, "--out", str(killed), "--batch-size", "9"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(killed.glob("receipts/*.json")) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (killed / "samples.json").exists()
    subprocess.run([*words, "--out", str(killed)], check=True, capture_output=True)
    assert digests(killed) == digests(whole)
    for name in ("seed-3/00000.png", "seed-3/00599.png"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


def test_fewer_images_are_a_prefix_and_manifest_matches_files(tmp_path: Path) -> None:
    minoritybench.sample("adm", tmp_path / "many", n=12, seeds=(0, 1))
    minoritybench.sample("adm", tmp_path / "few", n=4, seeds=(1,))
    many = json.loads((tmp_path / "many" / "samples.json").read_text())
    assert [row["sha256"] for row in many if row["seed"] == 1][:4] == digests(tmp_path / "few")
    assert [(row["seed"], row["index"]) for row in many] == [(s, i) for s in (0, 1) for i in range(12)]
    image = Image.open(tmp_path / "many" / many[0]["file"])
    assert (image.size, image.mode) == ((8, 8), "RGB")


def test_methods_share_noise_and_differ_in_images(tmp_path: Path) -> None:
    for name, settings in {"adm": {}, "jepa": {"eta": 2}, "bns": {}}.items():
        minoritybench.sample(name, tmp_path / name, n=16, seeds=(0,), settings=settings)
    minoritybench.sample("jepa", tmp_path / "neutral", n=16, seeds=(0,), settings={"eta": 0})
    minoritybench.sample("bns", tmp_path / "plain", n=16, seeds=(0,), settings={"gamma": 1, "skip": 0})
    assert digests(tmp_path / "neutral") == digests(tmp_path / "plain") == digests(tmp_path / "adm")
    assert len({tuple(digests(tmp_path / name)) for name in ("adm", "jepa", "bns")}) == 3


def test_class_conditional_samples_follow_their_labels(tmp_path: Path) -> None:
    outcome = minoritybench.sample("adm", tmp_path, n=60, seeds=(0,), class_conditional=True)
    source = DigitsSource(SourceSpec("digits"))
    from minoritybench.embedded.data import load_split

    labels = load_split("train").labels
    means = [np.mean([source.load(i).pixels[..., 0] for i in np.flatnonzero(labels == d)], axis=0) for d in range(10)]
    agree = 0
    for row in outcome.rows:
        pixels = np.asarray(Image.open(tmp_path / row["file"]).convert("L"), dtype=float)
        agree += int(np.argmin([((pixels - mean) ** 2).sum() for mean in means]) == row["label"])
    assert {row["label"] for row in outcome.rows} == set(range(10))
    assert agree / 60 > 0.7  # nearest class mean: a weak judge, chance is 0.1


def test_pixels_are_rounded_and_clamped() -> None:
    import torch

    values = torch.tensor([-0.2, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 1.3]).view(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert to_pixels(values)[0][0, :, 0].tolist() == [0, 0, 0, 1, 255, 255]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": {"etta": 1}}, "did you mean 'eta'"),
        ({"settings": {"eta": "big"}}, "--set eta=big"),
        ({"settings": {"eta": "nan"}}, "--set eta=nan"),
        ({"settings": {"k": 0}}, "k >= 1"),
        ({"settings": {"preset": "secret"}}, "no preset 'secret'"),
        ({"seeds": (1, 1)}, "distinct"),
        ({"n": 0}, "at least 1"),
        ({"dtype": "bfloat16"}, "float32 only"),
        ({"guide": "digits-jepaa"}, "did you mean"),
        ({"benchmark": "celeba65"}, "unknown benchmark"),
    ],
)
def test_bad_requests_are_one_line(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=message):
        minoritybench.sample("jepa", tmp_path / "out", **{"n": 2, **options})
    assert not (tmp_path / "out").exists()


def test_paper_preset_is_algorithm_one_to_the_letter(tmp_path: Path) -> None:
    minoritybench.sample("jepa", tmp_path / "out", n=2, seeds=(0,), settings={"preset": "paper"})
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["method"]["preset"] == "paper"
    assert plan["method"]["params"]["normalise"] == "none"


def test_third_party_method_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class Brighter:\n"
        "    amount: float = 0.5\n"
        "    def correct(self, step):\n"
        "        return step.x_t * 0 + self.amount if step.index == 0 else None\n"
    )
    out = tmp_path / "out"
    minoritybench.sample(f"{tmp_path / 'mine.py'}:Brighter", out, n=4, seeds=(0,), settings={"amount": "1.5"})
    minoritybench.sample("adm", tmp_path / "adm", n=4, seeds=(0,))
    mine, plain = (np.asarray(Image.open(folder / "seed-0" / "00000.png")).mean() for folder in (out, tmp_path / "adm"))
    assert mine > plain + 50


def test_a_diverged_chain_is_one_line_and_leaves_no_image(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"image \d of seed 5 is not finite at step \d+ of 50"):
        minoritybench.sample("jepa", tmp_path / "out", n=4, seeds=[5], settings={"eta": 1e30, "normalise": "none"})
    assert not list((tmp_path / "out").rglob("*.png"))


@pytest.mark.parametrize("seeds", [(-1,), (2**63,), (3, 3)])
def test_unfit_seeds_are_refused(seeds: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="--seed"):
        minoritybench.sample("adm", tmp_path / "out", n=2, seeds=seeds)


def test_python_arguments_may_be_lists_arrays_and_text(tmp_path: Path) -> None:
    first = minoritybench.sample("adm", str(tmp_path / "a"), n=2, seeds=np.array([4]))
    assert [row["seed"] for row in first.rows] == [4, 4]
    minoritybench.sample("bns", tmp_path / "a", n=2, seeds=[4], settings={"skip": 1}, force=True)
    assert len(list((tmp_path / "a").rglob("*.png"))) == 2


def test_more_probes_than_inputs_cost_no_more_than_all(tmp_path: Path) -> None:
    outcome = minoritybench.sample("jepa", tmp_path / "out", n=2, seeds=[0], settings={"k": 10**8})
    guided = outcome.passes["encoder_double_backward"]
    # d = 16 less the sphere's null direction, 13 steps; the first block fills the space
    assert outcome.passes["encoder_vjp"] == outcome.passes["encoder_jvp"] == guided == 15 * 13


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    alpha: float\n", "needs a value for alpha"),
        ("    alpha: float = float('inf')\n", "alpha = inf cannot stand in a record"),
        ("    alpha: 'Unknown' = 1\n", "NameError"),
        ("    alpha: int = 1\n    def __post_init__(self): raise ValueError('never')\n", "ValueError: never"),
        ("    alpha: int = 1\n    def correct(self, step): raise SystemExit(3)\n", "SystemExit"),
    ],
)
def test_odd_user_methods_are_one_line(body: str, message: str, tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text(f"import dataclasses\n@dataclasses.dataclass\nclass Mine:\n{body}")
    with pytest.raises(BadInputError, match=message):
        minoritybench.sample(f"{code}:Mine", tmp_path / "out", n=2, seeds=[0])


def test_what_user_code_prints_goes_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = tmp_path / "mine.py"
    code.write_text(
        "import dataclasses\nprint('at import')\n@dataclasses.dataclass\nclass Mine:\n    alpha: int = 1\n"
        "    def correct(self, step): print('in a step')\n"
    )
    minoritybench.sample(f"{code}:Mine", tmp_path / "out", n=2, seeds=[0])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "at import" in captured.err
    assert "in a step" in captured.err


GENERATOR = """
from minoritybench.diffusion.embedded import load_digits_ddpm

def load(name, *, device="cpu", dtype="float32", compile=False):
    model = load_digits_ddpm("digits-ddpm", device=device)
    model.weights_sha256 = f"compiled: {compile}"
    return model
"""


def test_compiling_is_the_generators_own_business(tmp_path: Path) -> None:
    """The flag reaches the generator and belongs to the plan; the embedded model refuses it."""
    (tmp_path / "mine.py").write_text(GENERATOR)
    generator = f"{tmp_path / 'mine.py'}:load"
    for compiled in (False, True):
        facts = make_plan(SampleRequest("adm", n=4, generator=generator, compile=compiled), tmp_path / "out")[1]
        assert facts["generator"]["weights_sha256"] == f"compiled: {compiled}"
        assert ("compile" in facts) == compiled
    with pytest.raises(BadInputError, match="--compile: digits-ddpm is too small to gain"):
        minoritybench.sample("adm", tmp_path / "no", n=4, compile=True)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("method", "benchmark", "wanted"),
    [
        ("jepa", "sd15-coco", ("sd15: not here", "dinov2-vits14-reg: weights", "prompts coco_v2.txt")),
        ("sgms", "celeba64", ("adm-celeba64: weights", "distance lpips-alex: weights")),
    ],
)
def test_everything_that_is_missing_is_told_in_one_message(
    method: str, benchmark: str, wanted: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("MINORITYBENCH_CACHE", "TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    with pytest.raises(MissingAssetError) as raised:
        minoritybench.sample(method, tmp_path / "out", benchmark=benchmark)
    assert len(raised.value.lacks) == len(wanted)
    assert all(lack.startswith(start) for lack, start in zip(raised.value.lacks, wanted, strict=True))
    assert not (tmp_path / "out").exists()
