"""The Ray engine keeps the local engine's contract; equal work leaves equal bytes."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from toy_workers import Unstartable, count_threads, die_on_one, die_once_on_one, fail_on_three, touch

from minoritybench.engine import check_engine, run_shards
from minoritybench.engine import ray as ray_engine
from minoritybench.engine.local import WorkerDiedError
from minoritybench.errors import BadInputError, MissingDependencyError

ARTEFACTS = ("scores.parquet", "reference_set.json", "members.csv", "failures.csv", "gallery.html")
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='Ray is not installed: pip install "minoritybench[ray]" (240 MB)'
)


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    """One local Ray for the quick tests; the engine uses a connection that its caller already has."""
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=10**8)
    yield
    ray.shutdown()


@needs_ray
@pytest.mark.usefixtures("session")
def test_every_shard_runs_once_and_the_callers_ray_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with more workers than the cluster has room for: the third is never placed."""
    import ray

    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    assert sorted(run_shards(touch, "out", [4, 0, 2, 7, 5], 3, "ray")) == [0, 2, 4, 5, 7]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0", "2", "4", "5", "7"]
    assert ray.is_initialized()


@needs_ray
@pytest.mark.usefixtures("session")
def test_a_users_error_comes_back_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"^shard three is bad$") as caught:
        list(run_shards(fail_on_three, str(tmp_path), range(5), 2, "ray"))
    assert type(caught.value) is BadInputError


@needs_ray
@pytest.mark.usefixtures("session")
def test_a_fault_of_ours_keeps_its_type_and_traceback(tmp_path: Path) -> None:
    (tmp_path / "3").touch()
    with pytest.raises(FileExistsError) as caught:
        list(run_shards(fail_on_three, str(tmp_path), [3], 1, "ray"))
    assert "in fail_on_three" in str(caught.value.__cause__)


@needs_ray
@pytest.mark.usefixtures("session")
def test_a_worker_killed_once_is_replaced(tmp_path: Path) -> None:
    assert sorted(run_shards(die_once_on_one, str(tmp_path), range(3), 2, "ray")) == [0, 1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "died"]


@needs_ray
@pytest.mark.usefixtures("session")
def test_a_node_that_cannot_start_a_worker_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "_Worker", Unstartable)
    with pytest.raises(BadInputError, match=r"cannot run minoritybench \(.*toy_workers.*install this version"):
        list(run_shards(touch, str(tmp_path), [0], 1, "ray"))


@needs_ray
@pytest.mark.slow
@pytest.mark.usefixtures("session")
def test_workers_have_the_torch_threads_of_local_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # Ray alone would set one thread a CPU it grants
    counts = {}
    for engine in ("local", "ray"):
        (tmp_path / engine).mkdir()
        list(run_shards(count_threads, str(tmp_path / engine), [0, 1], 2, engine))
        counts[engine] = {path.read_text() for path in (tmp_path / engine).iterdir()}
    assert counts["ray"] == counts["local"]


@needs_ray
@pytest.mark.slow
@pytest.mark.usefixtures("session")
def test_a_worker_that_keeps_dying_is_reported(tmp_path: Path) -> None:
    with pytest.raises(WorkerDiedError, match="resumes"):
        list(run_shards(die_on_one, str(tmp_path), range(3), 2, "ray"))


def rank_dataset(out: Path, *words: str) -> list[str]:
    command = [sys.executable, "-m", "minoritybench", "rank-dataset", "digits", "--limit", "200", "--shard-size", "16"]
    return [*command, "--out", str(out), *words]


@needs_ray
@pytest.mark.slow
def test_two_ray_workers_leave_the_bytes_of_a_local_run(tmp_path: Path) -> None:
    said = []
    for name, words in (("local", ()), ("ray", ("--engine", "ray", "--workers", "2", "--batch-size", "3"))):
        done = subprocess.run(rank_dataset(tmp_path / name, *words), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        said.append(done.stderr)
    assert said[0] == said[1]
    for name in ARTEFACTS:
        assert (tmp_path / "local" / name).read_bytes() == (tmp_path / "ray" / name).read_bytes(), name


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_stopped_run_leaves_no_process_behind(sent: signal.Signals, code: int, tmp_path: Path) -> None:
    mark = f"ray-leftover-{os.getpid()}-{int(sent)}"
    child = subprocess.Popen(
        rank_dataset(tmp_path / "out", "--shard-size", "2", "--engine", "ray", "--workers", "2"),
        env={**os.environ, "MINORITYBENCH_TEST": mark},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out/receipts/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(started_under(mark)) > 3  # the command, Ray's own and the workers
    os.killpg(child.pid, sent)  # as a terminal does
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == code
    assert "Traceback" not in stderr
    deadline = time.monotonic() + 30
    while started_under(mark) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert started_under(mark) == []


@needs_ray
@pytest.mark.slow
def test_samples_survive_the_death_of_a_ray_worker(tmp_path: Path) -> None:
    """Half-way through one of two workers is killed: its shard is drawn again elsewhere, and every PNG is the same."""
    words = [sys.executable, "-m", "minoritybench", "sample", "--method", "jepa", "--n", "1000", "--seed", "3"]
    local, spread = tmp_path / "local", tmp_path / "ray"
    subprocess.run([*words, "--out", str(local)], check=True, capture_output=True)
    mark = f"ray-sampling-{os.getpid()}"
    child = subprocess.Popen(
        [*words, "--out", str(spread), "--engine", "ray", "--workers", "2"],
        env={**os.environ, "MINORITYBENCH_TEST": mark},
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 240
    while len(list(spread.glob("receipts/*"))) < 8 and time.monotonic() < deadline:  # of 16
        time.sleep(0.01)
    workers = [pid for pid in started_under(mark) if b"ray::_Worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) >= 2  # and what a worker has just forked
    os.kill(min(workers), signal.SIGKILL)
    assert child.wait(timeout=240) == 0
    pictures = sorted(path.relative_to(local) for path in local.rglob("*.png"))
    assert len(pictures) == 1000
    assert all((local / name).read_bytes() == (spread / name).read_bytes() for name in pictures)
    assert (local / "samples.json").read_bytes() == (spread / "samples.json").read_bytes()


def started_under(mark: str) -> list[int]:
    """Processes whose environment holds `mark`: those that a run started, whoever their parent is now."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                if mark.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue  # gone, or another user's
    return found


def test_absent_ray_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "minoritybench\[ray\]"') as caught:
        check_engine("ray")
    assert caught.value.exit_code == 3


@needs_ray
def test_ray_chooses_the_gpu_itself() -> None:
    with pytest.raises(BadInputError, match="--device cuda"):
        check_engine("ray", "cuda:1")


def test_a_dead_address_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"  # bound, but nobody listens
        monkeypatch.setenv("RAY_ADDRESS", address)
        never_started = SimpleNamespace(is_initialized=lambda: False)
        with (
            pytest.raises(BadInputError, match=f"no Ray at RAY_ADDRESS={address}"),
            ray_engine._session(never_started, 1),
        ):
            pass


def test_unknown_engine_is_refused() -> None:
    with pytest.raises(BadInputError, match="--engine 'dask'"):
        check_engine("dask")
