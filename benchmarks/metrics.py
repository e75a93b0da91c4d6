"""Cost of the metrics on arrays against the packages that publish them, in time and peak memory.

Manifold metrics (precision, recall, density, coverage; k = 5) on float32 features of a power-law spectrum against
`prdc`, and the Frechet distance of two covariances against clean-fid's, whose matrix square root is scipy's. Contenders
take turns, each in a process of its own, so that a busy machine slows both alike and peak memory is `ru_maxrss`,
interpreter and features included. Where prdc does not fit, a smaller run is scaled by the number of pairs; such figures
carry a tilde.

    python benchmarks/metrics.py --real 5000 --fake 15000
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH = 2048
K = 5
Array = NDArray[Any]


def features(rows: int, seed: int) -> Array:
    """`(rows, WIDTH)` float32, standard deviations falling as i^-1/2."""
    found = np.random.default_rng(seed).standard_normal((rows, WIDTH), dtype=np.float32)
    found *= np.arange(1, WIDTH + 1, dtype=np.float32) ** -0.5
    return found


def ours_manifold(real: Array, fake: Array) -> dict[str, float]:
    """The four metrics by blocks."""
    from minoritybench.metrics import manifold_metrics

    return {name: found.value for name, found in manifold_metrics(real=real, fake=fake, k=K).items()}


def prdc_manifold(real: Array, fake: Array) -> dict[str, float]:
    """The four metrics from whole distance matrices."""
    from prdc import compute_prdc

    with contextlib.redirect_stdout(io.StringIO()):
        return {name: float(value) for name, value in compute_prdc(real, fake, K).items()}


def ours_frechet(a: Array, b: Array) -> dict[str, float]:
    """By symmetric eigenvalues."""
    from minoritybench.metrics.frechet import gaussian_frechet

    return {"distance": gaussian_frechet(np.zeros(len(a)), a, np.zeros(len(b)), b)}


def clean_fid_frechet(a: Array, b: Array) -> dict[str, float]:
    """By a matrix square root."""
    from cleanfid.fid import frechet_distance

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return {"distance": float(frechet_distance(np.zeros(len(a)), a, np.zeros(len(b)), b))}


WORKERS: dict[str, Callable[[Array, Array], dict[str, float]]] = {
    "ours-manifold": ours_manifold,
    "prdc": prdc_manifold,
    "ours-frechet": ours_frechet,
    "clean-fid": clean_fid_frechet,
}


def work(name: str, n: int, m: int) -> None:
    """One contender, in this process: prints seconds, CPU seconds, peak memory and values as JSON."""
    a, b = features(n, seed=0), features(m, seed=1)
    if WORKERS[name] in (ours_frechet, clean_fid_frechet):
        a, b = (np.cov(side, rowvar=False) for side in (a, b))
    few = 3 * K
    WORKERS[name](a[:few, :few], b[:few, :few])  # imports and thread pools
    wall, cpu = time.perf_counter(), time.process_time()
    values = WORKERS[name](a, b)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"wall": wall, "cpu": cpu, "peak": peak, "values": values}))


def timed(name: str, n: int, m: int) -> dict[str, Any]:
    """What `work` found, in a process of its own."""
    command = [sys.executable, __file__, "--worker", name, "--real", str(n), "--fake", str(m)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def line(name: str, found: dict[str, Any], share: float = 1.0) -> None:
    """A row of a table; `share` of the pairs were run."""
    mark = "" if share == 1 else "~"
    wall, cpu = found["wall"] / share, found["cpu"] / share
    print(f"| {name} | {mark}{wall:.1f} | {mark}{cpu:.1f} | {found['peak'] / 1e9:.2f} GB |", flush=True)


def compare(ours: str, theirs: str, n: int, m: int, rounds: int) -> None:
    """Both in turn; ratios of each round, and how far the values are apart."""
    print(f"\n{ours} and {theirs}, {n:,} x {m:,}\n| | s | CPU s | peak |\n|---|---|---|---|")
    for _ in range(rounds):
        first, second = timed(ours, n, m), timed(theirs, n, m)
        line(ours, first)
        line(theirs, second)
        ratios = {key: second[key] / first[key] for key in ("wall", "cpu", "peak")}
        apart = max(abs(first["values"][key] - value) for key, value in second["values"].items())
        print(
            f"ratios {', '.join(f'{key} {value:.2f}' for key, value in ratios.items())}; values differ by {apart:.1e}"
        )


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--real", type=int, default=5000)
    parser.add_argument("--fake", type=int, default=15000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="ours at 10,000 x 30,000 too, prdc scaled to it")
    parser.add_argument("--only", choices=["manifold", "frechet"])
    parser.add_argument("--worker", choices=list(WORKERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.real, options.fake)
        return
    import torch

    load = os.getloadavg()[0]
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"load at the start {load:.1f}")
    if options.only != "frechet":
        compare("ours-manifold", "prdc", options.real, options.fake, options.rounds)
        if options.full:
            print("\nours at 10,000 x 30,000\n| | s | CPU s | peak |\n|---|---|---|---|")
            line("ours-manifold", timed("ours-manifold", 10000, 30000))
    if options.only != "manifold":
        compare("ours-frechet", "clean-fid", 4000, 3000, options.rounds)


if __name__ == "__main__":
    main()
