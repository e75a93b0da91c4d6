"""Cost of exact JEPA-SCOREs against the published computation, `torch.autograd.functional.jacobian` and `svdvals`.

Prints one table a size: seconds an image (best of the repeats, which are interleaved so that a busy machine slows all
contenders alike), the ratio to the reference one image at a time, and the error: of the deflated score against float64,
and of rsvd, which is another quantity, against the sum over the same number of largest singular values in float64.
A cascade is no line here: it saves by leaving images of a ranked dataset unscored, by what a proxy learns from trained
features, so with random weights and one image there is nothing to time.
On a CPU times are `process_time` of one thread. Where automatic differentiation would take minutes an image, some of
its rows are timed and scaled to all of them; such figures carry a tilde.

    python benchmarks/scoring.py --sizes 56 112
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import minoritybench
from minoritybench.embedded.data import load_split
from minoritybench.scoring import Rsvd, Scores, exact_scores, rsvd_scores
from minoritybench.scoring.jacobian import JacobianGraph
from minoritybench.scoring.spectrum import log_sum, scores_from_jacobian

REFERENCE_BATCH = {56: 8, 112: 4}
"""Batch at which the reference was fastest an image in earlier trials; one image elsewhere."""


@dataclass(frozen=True)
class Contender:
    """`seconds()` times one image; `found()` is the score found meanwhile, None where there is none to compare, a sum
    over the `top` largest singular values (None: over all)."""

    name: str
    seconds: Callable[[], float]
    found: Callable[[], float] | None
    scaled: bool = False
    top: int | None = None

    def error(self, truth: Scores) -> float | None:
        """How far the score is from what it stands for, in nats."""
        return None if self.found is None else abs(self.found() - float(log_sum(truth.sigma[0, : self.top])))


class Bench:
    """One encoder at one size on one device."""

    def __init__(self, name: str, size: int, device: str, rows: int) -> None:
        self.name, self.size, self.device, self.rows = name, size, device, rows
        self.encoder: Any = minoritybench.load_encoder(name, weights="random", input_size=size, device=device)
        count = max(8, self.encoder.micro_batch)
        images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
        self.prepared: Tensor = self.encoder.prepare(images)
        self.dim: int = self.encoder.dim

    def timed(self, function: Callable[[], Any]) -> float:
        """Seconds of one call: CPU time on a CPU, wall time with a synchronised device."""
        if self.device == "cpu":
            started = time.process_time()
            function()
            return time.process_time() - started
        torch.cuda.synchronize()
        started = time.perf_counter()
        function()
        torch.cuda.synchronize()
        return time.perf_counter() - started

    def reference(self, batch: int, rows: int) -> float:
        """The reference's seconds an image: jacobian of the batch's summed outputs, then svdvals."""
        images = self.prepared[:batch]

        def head(count: int) -> Callable[[], Tensor]:
            return lambda: torch.autograd.functional.jacobian(lambda x: self.encoder(x).sum(0)[:count], images)

        if rows >= self.dim:
            return self.timed(lambda: torch.linalg.svdvals(self._spread(head(self.dim)()))) / batch
        few, more = self.timed(head(1)), self.timed(head(1 + rows))
        full = torch.randn(batch, self.dim, images[0].numel(), device=images.device)
        algebra = self.timed(lambda: torch.linalg.svdvals(full))
        return (few + (more - few) / rows * (self.dim - 1) + algebra) / batch

    def _spread(self, jacobian: Tensor) -> Tensor:
        return jacobian.transpose(0, 1).flatten(2)

    def generic(self) -> float:
        """Seconds an image of the generic exact path, from some of its rows and all of its linear algebra."""
        batch = self.encoder.micro_batch
        images = self.prepared[:batch]
        graph: list[JacobianGraph] = []
        forward = self.timed(lambda: graph.append(JacobianGraph(self.encoder, images)))
        vectors = torch.eye(self.dim, device=images.device)[: self.rows].expand(batch, -1, -1)
        rows = self.timed(lambda: graph[0].vjp(vectors)) * self.dim / self.rows
        full = torch.randn(batch, self.dim, images[0].numel(), device=images.device)
        return (forward + rows + self.timed(lambda: scores_from_jacobian(full, None))) / batch

    def linearised(self, rows_dtype: torch.dtype | None) -> Contender:
        """The linearised path, complete."""
        label = "float32" if rows_dtype is None else "bfloat16 rows: for ranking"
        image = self.prepared[:1]
        found: list[float] = []

        def score() -> None:
            found.append(float(exact_scores(self.encoder, image, rows_dtype=rows_dtype).deflated))

        return Contender(f"exact, linearised, {label}", lambda: self.timed(score), lambda: found[-1])

    def rsvd(self, case: Rsvd) -> Contender:
        """The randomised SVD: a micro-batch of copies of one image."""
        image = self.prepared[:1]
        found: list[float] = []

        def score() -> None:
            found.append(float(rsvd_scores(self.encoder, image, case, seed=0, indices=[0])))

        return Contender(
            f"rsvd ({case.k}, {case.p}, {case.q}): another quantity",
            lambda: self.timed(score) / self.encoder.micro_batch,
            lambda: found[-1],
            top=case.k,
        )

    def contenders(self, full_up_to: int) -> list[Contender]:
        """What is compared; the reference at one image comes first."""
        whole = self.size <= full_up_to
        batch = REFERENCE_BATCH.get(self.size, 1)
        first = Contender(
            "reference, B=1", lambda: self.reference(1, self.dim if whole else self.rows), None, scaled=not whole
        )
        batched = Contender(f"reference, B={batch}", lambda: self.reference(batch, self.rows), None, scaled=True)
        generic = Contender(f"exact, generic, B={self.encoder.micro_batch}", self.generic, None, scaled=True)
        linear = [self.linearised(None), self.linearised(torch.bfloat16)]
        return [first, *([batched] if batch > 1 else []), generic, *linear, self.rsvd(Rsvd())]

    def truth(self) -> Scores:
        """The scores of the first image in float64: by automatic differentiation where that is affordable."""
        double: Any = minoritybench.load_encoder(
            self.name, weights="random", input_size=self.size, device=self.device, dtype="float64"
        )
        double.micro_batch = 1
        path: Any = "generic" if self.size <= 56 else "auto"
        return exact_scores(double, self.prepared[:1].double(), path=path)


def compare(bench: Bench, repeats: int, full_up_to: int) -> None:
    """Time every contender in turn, `repeats` rounds, and print the table."""
    contenders = bench.contenders(full_up_to)
    rounds = [[contender.seconds() for contender in contenders] for _ in range(repeats)]
    truth = bench.truth()
    print(f"\n{bench.name}, {bench.size} px, one image")
    print(f"{'':44s} {'s / image':>10s} {'ratio':>6s} {'ratios of the rounds':>22s} {'error, nat':>11s}")
    best = [min(column) for column in zip(*rounds, strict=True)]
    for index, contender in enumerate(contenders):
        ratios = sorted(seconds[0] / seconds[index] for seconds in rounds)
        away = contender.error(truth)
        error = "" if away is None else f"{away:.1e}"
        mark = "~" if contender.scaled else " "
        spread = f"{ratios[0]:.2f} .. {ratios[-1]:.2f}"
        ratio = best[0] / best[index]
        print(f"{contender.name:44s} {mark}{best[index]:9.2f} {ratio:6.2f} {spread:>22s} {error:>11s}", flush=True)


def ranking_fidelity(count: int, device: str) -> None:
    """Spearman correlation of scores from bfloat16 rows with float64 ones, on digits and their trained ViT."""
    from scipy.stats import spearmanr

    encoder: Any = minoritybench.load_encoder("digits-ijepa", device=device)
    double: Any = minoritybench.load_encoder("digits-ijepa", device=device, dtype="float64")
    grey = torch.from_numpy(load_split("train").images[:count]).unsqueeze(1)
    images = grey.expand(-1, 3, -1, -1) / 255
    exact = exact_scores(double, double.prepare(images)).deflated
    for label, dtype in (("float32", None), ("bfloat16", torch.bfloat16)):
        found = exact_scores(encoder, encoder.prepare(images), rows_dtype=dtype).deflated
        difference = found - exact
        print(
            f"digits-ijepa, {count} digits, {label} rows: Spearman {spearmanr(found, exact)[0]:.5f}, "
            f"bias {difference.mean():.1e}, std {difference.std():.1e}, largest {difference.abs().max():.1e} nat, "
            f"score std {exact.std():.1f} nat"
        )


def machine() -> str:
    """The processor and those of its instructions that decide the figures."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    known = {key.strip(): value.strip() for key, value in fields.items()}
    flags = known.get("flags", "").split()
    units = ", ".join(f"{flag} {'yes' if flag in flags else 'no'}" for flag in ("avx512f", "avx512_bf16", "amx_bf16"))
    return (
        f"{known.get('model name', platform.processor())} (family {known.get('cpu family')}, model "
        f"{known.get('model')}), {units}; torch {torch.__version__}, {torch.get_num_threads()} thread"
    )


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--encoder", default="dinov2-vits14")
    parser.add_argument("--sizes", type=int, nargs="+", default=[56, 112, 224])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=16, help="rows timed where rows are scaled to all of them")
    parser.add_argument("--full-reference-up-to", type=int, default=112, metavar="PX")
    parser.add_argument("--digits", type=int, default=200, help="digits for the ranking check, 0 for none")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    if options.device != "cpu":
        print(torch.cuda.get_device_name())
    print(f"~: scaled from {options.rows} rows")
    print("error: against the deflated score in float64; of rsvd (k, p, q) against the exact sum of the top k")
    print("no cascade: what it saves depends on trained weights and a dataset, and these weights are random")
    for size in options.sizes:
        compare(
            Bench(options.encoder, size, options.device, options.rows), options.repeats, options.full_reference_up_to
        )
    if options.digits:
        ranking_fidelity(options.digits, options.device)


if __name__ == "__main__":
    main()
