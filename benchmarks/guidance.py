"""Cost of the guidance gradient against the paper's pipeline and the published finite-difference loop.

One table a size: seconds an image (best of the rounds, which are interleaved so that a busy machine slows all alike),
the ratio to the paper's pipeline, that of the published loop, and two errors: what the subspace found misses of the
exact sum of the k largest logarithms, and how far the gradient is from that of the exact subspace. A second line a
size says how far our gradient is from the paper's at the same fixed Q.

The paper's pipeline is the whole Jacobian with its graph, randomised SVD of it, an SVD of `Q^T J` and a second
backward. Its cost is linear in the rows; where all of them do not fit in memory or time (`--full-up-to`), some are
built, differentiated and scaled to all, and the figure carries a tilde.

`--methods` times instead every registered method that can run on digits, in one interleaved run: seconds a sample.

On a CPU times are `process_time` of one thread.

    python benchmarks/guidance.py --sizes 56 112
    python benchmarks/guidance.py --methods
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from scoring import machine
from torch import Tensor

import minoritybench
from minoritybench.encoders.base import embed, null_basis
from minoritybench.errors import MinorityBenchError
from minoritybench.guidance import RangeFinder, score_gradient
from minoritybench.guidance.gradient import dual_gradient
from minoritybench.guidance.products import CopiedGraph
from minoritybench.guidance.subspace import PUBLISHED_DIFFERENCE
from minoritybench.registry import entries
from minoritybench.sample_job import SampleRequest, open_sampler
from minoritybench.sample_shard import sample_images
from minoritybench.scoring.rsvd import Rsvd, TopK, range_basis, top_k
from minoritybench.scoring.spectrum import log_sum

STEP_APART = 0.05
"""Root mean square distance, in normalised pixels, of the state that a warm start comes from."""


def timed(function: Callable[[], Any], device: str) -> float:
    """Seconds of one call: CPU time on a CPU, wall time with a synchronised device."""
    if device == "cpu":
        started = time.process_time()
        function()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def rows_with_graph(encoder: Any, x: Tensor, count: int) -> Tensor:
    """The first `count` rows `(count, n)` of one image's Jacobian, each with its graph."""
    z = embed(encoder, x)[0]
    return torch.stack([torch.autograd.grad(z[i], x, create_graph=True)[0].flatten() for i in range(count)])


def paper_gradient(encoder: Any, prepared: Tensor, rsvd: Rsvd, probes: Tensor, basis: Tensor | None = None) -> Tensor:
    """The paper's pipeline: all rows with graphs, RSVD of the matrix, SVD of `Q^T J`, double backward."""
    x = prepared.detach().requires_grad_(True)
    jacobian = rows_with_graph(encoder, x, embed(encoder, prepared).shape[1])
    return _through_svd(jacobian, x, rsvd, probes, basis)


def _through_svd(jacobian: Tensor, x: Tensor, rsvd: Rsvd, probes: Tensor, basis: Tensor | None) -> Tensor:
    if basis is None:
        fixed = jacobian.detach()
        basis = torch.linalg.qr(fixed @ probes.T).Q
        for _ in range(rsvd.q):
            basis = torch.linalg.qr(fixed @ (fixed.T @ basis)).Q
    score = torch.linalg.svdvals(basis.T @ jacobian)[: rsvd.k].clamp_min(1e-8).log().sum()
    (gradient,) = torch.autograd.grad(score, x)
    return gradient


def published_gradient(encoder: Any, prepared: Tensor, rsvd: Rsvd, probes: Tensor) -> Tensor:
    """The published loop for one image, in float32: one product at a time, JVPs as finite differences, `Q^T J` row by
    row with graphs, SVD, double backward."""
    x = prepared.detach().requires_grad_(True)
    z = embed(encoder, x)[0]
    basis = published_subspace(encoder, prepared, rsvd, probes)
    rows = [torch.autograd.grad(z, x, column, create_graph=True)[0].flatten() for column in basis.T]
    score = torch.linalg.svdvals(torch.stack(rows))[: rsvd.k].clamp_min(1e-8).log().sum()
    (gradient,) = torch.autograd.grad(score, x)
    return gradient


def published_subspace(encoder: Any, prepared: Tensor, rsvd: Rsvd, probes: Tensor) -> Tensor:
    """Its range finder: the basis `(d, l)`."""
    x = prepared.detach().requires_grad_(True)
    z = embed(encoder, x)[0]

    def forward(v: Tensor) -> Tensor:
        with torch.no_grad():
            moved = embed(encoder, prepared + PUBLISHED_DIFFERENCE * v.view_as(prepared))[0]
            return (moved - z.detach()) / PUBLISHED_DIFFERENCE

    def backward(w: Tensor) -> Tensor:
        return torch.autograd.grad(z, x, w, retain_graph=True)[0].flatten()

    sketch = torch.stack([forward(v / v.norm()) for v in probes], dim=1)
    for _ in range(rsvd.q):
        pulled = [backward(column) for column in sketch.T]
        sketch = torch.linalg.qr(torch.stack([forward(v) for v in pulled], dim=1)).Q
    return torch.linalg.qr(sketch).Q


@dataclass(frozen=True)
class Contender:
    """`seconds()` times one gradient; `triplets()` what it found, None where that is not compared."""

    name: str
    seconds: Callable[[], float]
    triplets: Callable[[], TopK] | None = None
    scaled: bool = False


class Bench:
    """One encoder with random weights at one size, one image."""

    def __init__(self, name: str, size: int, device: str, k: int, rows: int) -> None:
        self.encoder: Any = minoritybench.load_encoder(name, weights="random", input_size=size, device=device)
        self.device, self.size, self.k, self.rows = device, size, k, rows
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(1, 3, size, size, generator=generator)
        self.prepared: Tensor = self.encoder.prepare(image)
        away = torch.randn(self.prepared.shape, generator=generator).to(self.prepared)
        self.before = self.prepared - STEP_APART * away
        self.probes = torch.randn(1, k + 2, self.prepared.numel(), generator=generator).to(self.prepared)
        self.published = Rsvd(k, 2, 2)
        self._nearby: dict[str, Tensor] = {}

    def paper(self, whole: bool) -> float:
        """Seconds of the paper's pipeline, from all rows or from a few."""
        probes = self.probes[0]
        if whole:
            return timed(lambda: paper_gradient(self.encoder, self.prepared, self.published, probes), self.device)

        def part(count: int) -> float:
            x = self.prepared.detach().requires_grad_(True)

            def gradient() -> None:
                rows = rows_with_graph(self.encoder, x, count)
                weights = torch.ones_like(rows)
                torch.autograd.grad(rows, x, weights)

            return timed(gradient, self.device)

        few, more = part(1), part(1 + self.rows)
        matrix = torch.randn(self.encoder.dim, self.prepared.numel(), device=self.prepared.device)

        def algebra() -> None:
            copy = matrix.clone().requires_grad_(True)
            _through_svd(copy, copy, self.published, probes, None)

        return few + (more - few) / self.rows * (self.encoder.dim - 1) + timed(algebra, self.device)

    def ours(self, label: str, finder: RangeFinder, *, warm: bool = False, linear: bool = True) -> Contender:
        """The toolkit's gradient, cold or begun with what was found at a state nearby."""
        encoder = self.encoder if linear else _Plain(self.encoder)

        def start() -> Tensor:
            if not warm:
                return self.probes
            if finder.kind not in self._nearby:
                cold = RangeFinder(Rsvd(self.k, 2, 2), finder.kind)
                self._nearby[finder.kind] = cold.find(encoder, self.before, self.probes).right
            return self._nearby[finder.kind]

        def seconds() -> float:
            begin = start()
            return timed(lambda: score_gradient(encoder, self.prepared, finder, begin), self.device)

        return Contender(label, seconds, lambda: finder.find(encoder, self.prepared, start()).first(self.k))

    def contenders(self, whole: bool) -> list[Contender]:
        """What is compared; the paper's pipeline comes first."""
        k = self.k
        loop = Contender(
            "published loop (finite differences)",
            lambda: timed(
                lambda: published_gradient(self.encoder, self.prepared, self.published, self.probes[0]), self.device
            ),
            lambda: self._published_triplets(),
        )
        rsvd, lanczos = RangeFinder(self.published), RangeFinder(Rsvd(k, 2, 1), "lanczos")
        return [
            Contender("paper's pipeline", lambda: self.paper(whole), None, scaled=not whole),
            loop,
            self.ours(f"rsvd ({k}, 2, 2), cold, any encoder", rsvd, linear=False),
            self.ours(f"rsvd ({k}, 2, 2), cold", rsvd),
            self.ours(f"rsvd ({k}, 2, 1), warm", RangeFinder(Rsvd(k, 2, 1)), warm=True),
            self.ours(f"lanczos ({k}, 2, 2), cold: first step", RangeFinder(self.published, "lanczos")),
            self.ours(f"lanczos ({k}, 2, 1), warm: default", lanczos, warm=True),
            self.ours(f"lanczos ({k}, 2, 0), warm", RangeFinder(Rsvd(k, 2, 0), "lanczos"), warm=True),
        ]

    def _published_triplets(self) -> TopK:
        basis = published_subspace(self.encoder, self.prepared, self.published, self.probes[0]).unsqueeze(0)
        return top_k(CopiedGraph(self.encoder, self.prepared, self.k + 2), basis, self.k)

    def exact(self) -> TopK:
        """The k largest triplets of the whole Jacobian, from its float64 Gram matrix."""
        gram = self.encoder.linearised().gram(self.prepared)
        nulls = null_basis(self.encoder, self.encoder(self.prepared))
        if nulls is not None:
            keep = torch.eye(len(gram[0]), dtype=gram.dtype, device=gram.device) - nulls @ nulls.transpose(1, 2)
            gram = keep @ gram @ keep
        vectors = torch.linalg.eigh(gram).eigenvectors.flip(-1)[:, :, : self.k]
        return top_k(CopiedGraph(self.encoder, self.prepared, self.k), vectors.to(self.prepared), self.k)

    def same_projection(self, rows: int | None) -> float:
        """Relative difference of our gradient and the paper's at one Q.

        Where the whole Jacobian with graphs does not fit, the rows of `Q^T J` are built with theirs: the same thing.
        """
        graph = CopiedGraph(self.encoder, self.prepared, self.k + 2)
        basis = range_basis(graph, self.probes, 2)
        ours = dual_gradient(self.encoder, self.prepared, top_k(graph, basis, self.k))
        x = self.prepared.detach().requires_grad_(True)
        if rows is None:
            paper = paper_gradient(self.encoder, self.prepared, self.published, self.probes[0], basis[0])
        else:
            z = embed(self.encoder, x)[0]
            projected = [torch.autograd.grad(z, x, q, create_graph=True)[0].flatten() for q in basis[0].T]
            score = torch.linalg.svdvals(torch.stack(projected))[: self.k].log().sum()
            (paper,) = torch.autograd.grad(score, x)
        return float((ours - paper).norm() / paper.norm())


class _Plain:
    """An encoder with everything but what was written out by hand."""

    def __init__(self, encoder: Any) -> None:
        self.name, self.dim, self.prepare = encoder.name, encoder.dim, encoder.prepare
        self.null_directions, self._call = encoder.null_directions, encoder.__call__

    def __call__(self, prepared: Tensor) -> Tensor:
        z: Tensor = self._call(prepared)
        return z


def compare(bench: Bench, rounds: int, whole: bool, brief: bool) -> None:
    """Time every contender in turn and print the table."""
    contenders = bench.contenders(whole)
    if brief:
        contenders = [contenders[i] for i in (0, 1, 3, 6)]
    else:
        for contender in contenders[1:]:
            contender.seconds()  # first calls pay for set-up
    seconds = [[contender.seconds() for contender in contenders] for _ in range(rounds)]
    exact = None if brief else bench.exact()
    truth = None if exact is None else dual_gradient(bench.encoder, bench.prepared, exact)
    print(f"\n{bench.encoder.name}, {bench.size} px, one image, k = {bench.k}, {rounds} rounds")
    heads = f"{'s':>9s} {'paper / it':>10s} {'of the rounds':>16s} {'loop / it':>9s} {'missed':>8s} {'gradient':>8s}"
    print(f"{'':40s} {heads}")
    best = [min(column) for column in zip(*seconds, strict=True)]
    for index, contender in enumerate(contenders):
        ratios = sorted(row[0] / row[index] for row in seconds)
        told = ""
        if contender.triplets is not None and exact is not None and truth is not None:
            found = contender.triplets()
            gradient = dual_gradient(bench.encoder, bench.prepared, found)
            missed = float(log_sum(exact.sigma) - log_sum(found.sigma))
            told = f"{missed:8.3f} {float((gradient - truth).norm() / truth.norm()):8.3f}"
        mark = "~" if contender.scaled else " "
        spread = f"{ratios[0]:.1f} .. {ratios[-1]:.1f}"
        print(
            f"{contender.name:40s} {mark}{best[index]:8.3f} {best[0] / best[index]:10.1f} {spread:>16s}"
            f" {best[1] / best[index]:9.2f} {told}",
            flush=True,
        )
    print(f"gradient at the same Q against the paper's: {bench.same_projection(None if whole else bench.rows):.1e}")


def methods_on_digits(count: int, rounds: int, device: str) -> None:
    """Milliseconds a sample of every registered method that can run on digits, interleaved."""
    running = []
    for name in entries("methods"):
        request = SampleRequest(method=name, device=device)
        try:
            sampler = open_sampler(request)
            sample_images(sampler, request, 100, range(count))
        except MinorityBenchError as error:
            print(f"{name}: left out: {error}")
            continue
        running.append((name, request, sampler))
    seconds: dict[str, list[float]] = {name: [] for name, _, _ in running}
    for _ in range(rounds):
        for name, request, sampler in running:
            seconds[name].append(
                timed(lambda r=request, s=sampler: sample_images(s, r, 100, range(count)), device) / count
            )
    print(f"\ndigits, {count} samples, {rounds} rounds")
    print(f"{'':12s} {'ms best':>8s} {'median':>8s} " + " ".join(f"{'/ ' + name:>12s}" for name, _, _ in running))
    for name, mine in seconds.items():
        ratios = [statistics.median(a / b for a, b in zip(mine, other, strict=True)) for other in seconds.values()]
        print(
            f"{name:12s} {min(mine) * 1e3:8.2f} {statistics.median(mine) * 1e3:8.2f} "
            + " ".join(f"{ratio:12.2f}" for ratio in ratios)
        )


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--encoder", default="dinov2-vits14")
    parser.add_argument("--sizes", type=int, nargs="+", default=[56, 112, 224])
    parser.add_argument("--k", type=int, default=9, help="9 for latent models, 3 for pixel models in the paper")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=16, help="rows built where rows are scaled to all of them")
    parser.add_argument("--full-up-to", type=int, default=56, metavar="PX", help="largest size with all rows")
    parser.add_argument("--brief", action="store_true", help="four lines, not compared with the exact subspace")
    parser.add_argument("--methods", action="store_true", help="time every method on digits instead")
    parser.add_argument("--n", type=int, default=64, help="samples a method and round, for --methods")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    if options.methods:
        methods_on_digits(options.n, options.rounds, options.device)
        return
    print(f"~: scaled from {options.rows} rows")
    print("missed: nat of the exact top-k sum; gradient: relative error against that of the exact subspace")
    print(f"warm: begun with what was found {STEP_APART} rms away")
    for size in options.sizes:
        bench = Bench(options.encoder, size, options.device, options.k, options.rows)
        compare(bench, options.rounds, size <= options.full_up_to, options.brief)


if __name__ == "__main__":
    main()
