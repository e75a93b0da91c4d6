"""Kill a ranking at random points, resume each under other settings, and compare every byte of what it leaves.

    python benchmarks/kill_points.py --points 50 --ray 10 [--estimator cascade]

Each trial ranks the first 200 digits (300 for a cascade) in shards of 8, sends SIGKILL (to the process alone or to all
that it started) once a random number of shards is done and a random moment has passed, resumes under a random batch
size, shard size, worker count and engine, and compares the SHA-256 of the five artefacts with those of an undisturbed
run. `--ray N` of the trials are killed on Ray, and half of those resumed locally. Exit code 1 if any byte differs.

Trials are forked from this process, which has loaded everything but computed nothing, for loading takes most of the
time of so small a run.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import minoritybench.rank

ARTEFACTS = ("scores.parquet", "reference_set.json", "members.csv", "failures.csv", "gallery.html")
LIMITS, SHARD_SIZE = {"exact": 200, "cascade": 300}, 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=50, help="kill points in all")
    parser.add_argument("--ray", type=int, default=0, help="how many of them on Ray")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--estimator", choices=sorted(LIMITS), default="exact")
    options = parser.parse_args()
    ranking = {"estimator": options.estimator, "limit": LIMITS[options.estimator]}
    draw = random.Random(options.seed)
    differing, done_when_killed = 0, Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        assert finished(started(scratch / "whole", shard_size=SHARD_SIZE, **ranking)) == 0
        wanted, receipts = digests(scratch / "whole"), receipts_in(scratch / "whole")
        for point in range(options.points):
            engine = "ray" if point < options.ray else "local"
            out = scratch / f"point-{point}"
            done_when_killed[killed(out, draw, receipts, engine=engine, **ranking)] += 1
            settings = {
                "batch_size": draw.choice((1, 3, 8, 64, 200)),
                "shard_size": draw.choice((8, 32, 256)),
                "workers": draw.choice((1, 1, 1, 2)),
                "engine": engine if point % 2 else "local",
            }
            code, found = finished(started(out, **settings, **ranking)), digests(out)
            wrong = [name for name in ARTEFACTS if found.get(name) != wanted[name]]
            if code or wrong:
                differing += 1
                say(f"point {point}, resumed with {settings}: exit code {code}, differing: {wrong}")
    shards = ", ".join(f"{done} {count}" for done, count in sorted(done_when_killed.items()))
    say(f"of {receipts} receipts, done when killed and how often: {shards}")
    equal = options.points - differing
    say(f"{equal} of {options.points} resumed runs equal the undisturbed one ({options.ray} killed on Ray)")
    return 1 if differing else 0


def started(out: Path, **settings: Any) -> int:
    """A process of its own session that ranks into `out`; its id."""
    process = os.fork()
    if process:
        return process
    os.setsid()
    code = 1
    try:
        minoritybench.rank.rank_dataset("digits", out=out, **settings)
        code = 0
    except Exception:
        logging.exception("the ranking failed")
    finally:
        os._exit(code)  # a forked child never returns into the loop of its parent


def finished(process: int) -> int:
    """Wait for a process; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed(out: Path, draw: random.Random, receipts: int, **settings: Any) -> str:
    """Start a run that leaves so many receipts and kill it at a random point; says how many it had left."""
    target, moment = draw.randint(0, receipts), draw.uniform(0, 0.3)
    kill = draw.choice((os.kill, os.killpg))
    process = started(out, shard_size=SHARD_SIZE, workers=draw.choice((1, 1, 1, 2)), **settings)
    while receipts_in(out) < target and not gone(process):
        time.sleep(0.002)
    time.sleep(moment)
    kill(process, signal.SIGKILL)  # a process that has ended stays until it is waited for
    finished(process)
    count = receipts_in(out)
    return "none" if count == 0 else "all" if count >= receipts else "half or less" if 2 * count <= receipts else "more"


def receipts_in(out: Path) -> int:
    return len(list(out.glob("receipts/*.json")))


def gone(process: int) -> bool:
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def digests(out: Path) -> dict[str, str]:
    files = {name: out / name for name in ARTEFACTS if (out / name).is_file()}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
