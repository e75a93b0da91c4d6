"""The command line as a user meets it: exit codes, clean stdout, one-line errors."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import forked
from PIL import Image

KINDS = ("datasets", "encoders", "generators", "methods", "metrics", "benchmarks", "reference-sets")


def minoritybench(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "minoritybench", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300, check=False)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--help", 0, "rank-dataset"),
        ("sample --method jeppa --out s", 2, "did you mean 'jepa'"),
        ("evaluate --method jepa --benchmark digitz", 2, "unknown benchmark 'digitz'"),
        ("evaluate --method jepa --guide digits-jep", 2, "did you mean 'digits-jepa'"),
        ("evaluate --method jepa --judge digits-jep", 2, "did you mean 'digits-jepa'"),
        ("evaluate --method jepa --reference digit", 2, "did you mean 'digits'"),
        ("rank-dataset digitz", 2, "did you mean 'digits'"),
        ("rank-dataset digits --estimator nonsense", 2, "'cascade'"),
        ("analyze scores digits --encoder digits-jep", 2, "did you mean 'digits-jepa'"),
        ("compare digits digit", 2, "did you mean 'digits'"),
        ("compare nope1 nope2", 2, "nope1: no run folder and no record file is there; unknown reference set 'nope1'"),
        ("list", 2, "Missing argument 'KIND': one of datasets, encoders, generators, methods, metrics, benchmarks"),
    ],
)
def test_help_and_wrong_names_load_nothing_heavy(words: str, code: int, said: str) -> None:
    script = (
        f"import sys; sys.argv = ['minoritybench', *{words.split()!r}]\n"
        "from minoritybench.cli import main\n"
        "try: main()\n"
        "except SystemExit as e: code = e.code\n"
        "heavy = {'torch', 'pandas', 'numpy', 'pydantic', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_list_as_json(kind: str) -> None:
    done = minoritybench("list", kind, "--json")
    assert done.returncode == 0
    rows = json.loads(done.stdout)
    assert rows
    assert all(set(row) == {"name", "summary"} for row in rows)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("rank-dataset", "digitz"), 2, "did you mean 'digits'"),
        (("rank-dataset", "celeba"), 4, "mmlab.ie.cuhk.edu.hk"),
        (("rank-dataset", "imagenet", "--root", "/nowhere"), 4, "/nowhere"),
        (("rank-dataset", "digits", "--encoder", "digits-jep"), 2, "did you mean 'digits-jepa'"),
        (("rank-dataset", "digits", "--keep", "lots"), 2, "--keep"),
        (("rank-dataset", "digits", "--weights", "/nowhere.safetensors"), 4, "/nowhere.safetensors"),
        (("rank-dataset", "digits", "--batch-size", "0"), 2, "positive integer"),
        (("rank-dataset", "digits", "--device", "cuda:99"), 2, "cannot be used here"),
        (("evaluate", "--method", "jeppa"), 2, "did you mean 'jepa'"),
        (("evaluate", "--benchmark", "celeba64", "--method", "adm"), 4, "inception-clean"),
        (("evaluate", "--samples", ".", "--generator", "digits-ddpm"), 2, "--generator"),
        (("sample", "--method", "adm", "--generator", "diffusers:/nowhere", "--out", "x"), 4, "/nowhere"),
        (("evaluate",), 2, "either --method or --samples"),
        (("evaluate", "--method", "jepa", "--set", "eta"), 2, "key=value"),
        (("evaluate", "--method", "jepa", "--reference", "digit"), 2, "did you mean 'digits'"),
        (("evaluate", "--samples", "/nowhere"), 2, "--samples /nowhere"),
        (("sample", "--method", "ddim", "--benchmark", "digits-t2i", "--prompts", "no.txt", "--out", "x"), 2, "no.txt"),
        (("gallery", "/nowhere", "--out", "x.html"), 2, "'RUN...': Path '/nowhere'"),
        (("report", "/nowhere"), 2, "'RUN': Path '/nowhere'"),
        (("study", "build", ".", "/nowhere", "--out", "x.html"), 2, "'B': Path '/nowhere'"),
        (("study", "tally", "/nowhere.json", "--key", "k.json"), 2, "'--key': File 'k.json'"),
        (("verify", "/nowhere"), 2, "no such folder: /nowhere"),
        (("sample", "--method", "/nowhere.py:X", "--out", "x"), 2, "/nowhere.py"),
        (("evalute",), 2, "did you mean 'evaluate'"),
        (("list", "method"), 2, "did you mean 'methods'"),
        (("list",), 2, "Missing argument 'KIND': one of datasets, "),
        (("compare", "nope1", "nope2"), 2, "nope1: no run folder and no record file is there; unknown reference set"),
        (("compare", "7e0a396f", "048be017"), 2, "7e0a396f: no run folder and no record file is there; unknown ref"),
        (("compare", "no/where", "digits"), 2, "no/where: no run folder, record file or rank-dataset output is there"),
        (("evaluate", "--method", "adm", "--n", "5"), 2, "--n"),
        (("rank-dataset", "digits", "--per-class", "3"), 2, "one folder a class"),
        (("rank-dataset", "digits", "--encoder", "mine.py"), 2, "mine.py:name"),
        (("verify", "nothing"), 2, "unknown reference set"),
        (("leaderboard", "add", "/nowhere.json"), 2, "/nowhere.json"),
        (("leaderboard", "build"), 2, "--results leaderboards/results: no such folder"),
        (("leaderboard", "check"), 2, "--results leaderboards/results: no such folder"),
        (("leaderboard", "add", __file__), 2, "--results leaderboards/results: no such folder"),
        (("rank-dataset", "digits", "--flag"), 2, "--flag"),
    ],
)
def test_mistakes_get_one_line_and_a_code(words: tuple[str, ...], code: int, message: str, tmp_path: Path) -> None:
    done = forked(*words, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_keep_that_cannot_be_met_is_refused_before_any_work(tmp_path: Path) -> None:
    done = forked("rank-dataset", "digits", "--keep", "5000", cwd=tmp_path)
    assert done.returncode == 2
    assert "only 1500 images" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_rank_json_is_one_document_and_failures_exit_five(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    done = minoritybench("rank-dataset", folder, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["n"] == 1
    assert set(document["cost"]) == {"seconds", "exact_fraction", "row_fraction"}
    (folder / "broken.png").write_text("text")
    done = minoritybench("rank-dataset", folder, "--out", tmp_path / "out2", "--json")
    assert done.returncode == 5
    assert json.loads(done.stdout)["failures"] == 1
    assert "broken.png" in done.stderr


def test_blank_lines_of_a_prompt_file_are_told_once(tmp_path: Path) -> None:
    (tmp_path / "gaps.txt").write_text("a thin zero\n\na bold seven\n")
    words = (
        "sample",
        "--method",
        "ddim",
        "--benchmark",
        "digits-t2i",
        "--prompts",
        "gaps.txt",
        "--n",
        "2",
        "--out",
        "s",
    )
    done = forked(*words, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == "--prompts gaps.txt: 1 blank line left out; what comes after moves up\n"


def test_sample_then_evaluate_then_json(tmp_path: Path) -> None:
    done = minoritybench("sample", "--method", "ddim", "--n", "10", "--seed", "4", "--out", tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "s" / "samples.json").read_text())) == 10
    done = minoritybench("evaluate", "--samples", tmp_path / "s", "--out", tmp_path / "e", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["sampling"]["n"] == 10
    assert record["command"] == f"minoritybench evaluate --samples {tmp_path / 's'}"


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    for words in (
        ("rank-dataset", "digits"),
        ("evaluate", "--method", "jepa"),
        ("sample", "--method", "adm", "--out", "s"),
    ):
        done = forked(*words, "--dry-run", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout
    assert list(tmp_path.iterdir()) == []


def test_verify_digits() -> None:
    done = minoritybench("verify", "digits", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images_checked"] == 375


@pytest.mark.parametrize("workers", [1, 2])
def test_interrupt_exits_130_with_one_line_and_resumes(workers: int, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "minoritybench", "sample", "--method", "jepa", "--n", "900", "--seed", "0"]
    words += ["--out", str(tmp_path / "s"), "--workers", str(workers)]
    child = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a background launcher may have left SIGINT ignored, which children inherit
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("s/receipts/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == 130
    assert stderr.strip().splitlines()[-1].startswith("minoritybench: interrupted")
    assert "Traceback" not in stderr
    assert minoritybench(*words[3:]).returncode == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_like_this", "nothing_like_this"),
        ("def make(): raise ValueError('no weights')", "no weights"),
        ("def make(): return 3", "lacks prepare"),
        ("x = 1", "there is no 'make'"),
        (
            "class make:\n    def prepare(self, x): return x\n    def __call__(self, x): return x.nope",
            "failed at line 3",
        ),
    ],
)
def test_faulty_user_encoder_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(text)
    done = forked("rank-dataset", "digits", "--encoder", f"{tmp_path / 'mine.py'}:make", cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_faulty_method_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Bad:\n"
        "    def correct(self, step):\n"
        "        return step.nope\n"
    )
    done = forked(
        "sample", "--method", f"{tmp_path / 'mine.py'}:Bad", "--n", "2", "--out", tmp_path / "s", cwd=tmp_path
    )
    assert done.returncode == 2
    assert "mine.py failed at line 5: AttributeError" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
