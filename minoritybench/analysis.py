"""What a dataset's spectra say of top-k scores: where scores vary, and how far a randomised SVD is from them."""

from __future__ import annotations

import itertools
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minoritybench.data.source import ImageDecodeError
from minoritybench.encoders.base import Encoder, embed, micro_batch_of, null_basis, threads_of
from minoritybench.errors import BadInputError
from minoritybench.microbatch import pad_rows, torch_threads
from minoritybench.rank import NothingScoredError
from minoritybench.rank_job import RankJob, RankRequest, prepare_job
from minoritybench.rank_shard import prepare_images, stack_inputs
from minoritybench.registry import user_code
from minoritybench.report.spectra import spectra_html
from minoritybench.rng import ImageStreams
from minoritybench.scoring.bounds import OFFSET_FROM, DenseJacobian, ErrorTerms, error_terms
from minoritybench.scoring.jacobian import JacobianGraph
from minoritybench.scoring.rsvd import Rsvd, range_basis, top_k
from minoritybench.scoring.spectrum import LOG_FLOOR, log_sum, project_out, singular_values
from minoritybench.scoring.validity import rank_correlation
from minoritybench.store import digest_of, folder_lock, open_output, pretty_json, read_json, write_text

FORMAT = 2
DOCUMENT_FILE = "analysis.json"
DEFAULT_K = (2, 4, 6, 8, 10)
"""The ranks of Table 5 in arXiv:2605.24631."""
DEFAULT_LIMIT = 200
_LEAST_IMAGES = 3
"""Of fewer no correlation is told: two points always lie on a line."""
_TERMS = ("error", "e_rsvd", "e_trunc", "e_trunc_delta", "bound_rsvd", "bound_trunc", "offset_ratio")

Array = NDArray[np.float64]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnalysisRequest:
    """What `analyze scores` was asked for; `cases` are the settings of the randomised SVD to look at."""

    dataset: str
    root: str | None = None
    split: str | None = None
    encoder: str | None = None
    weights: str | None = None
    limit: int = DEFAULT_LIMIT
    k: tuple[int, ...] = DEFAULT_K
    p: tuple[int, ...] = (2,)
    q: tuple[int, ...] = (2,)
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    out: Path | None = None
    force: bool = False

    @property
    def cases(self) -> list[Rsvd]:
        """Every combination of k, p and q."""
        return [Rsvd(*case) for case in itertools.product(self.k, self.p, self.q)]


def analyse_scores(request: AnalysisRequest) -> dict[str, Any]:
    """Spectrum, error decomposition and bounds over the first `limit` images, as one JSON-ready document.

    `sha256` is the digest of all else in it. With `out`, analysis.json and analysis.html are written there; finished
    work of the same request is read back, not done again, unless the digest says that it was edited or cut.
    `failures` lists the images without a spectrum. Errors: a k below 2, or one that reaches the number of
    singular values there are, is bad input, found out before anything is computed or written; `NothingScoredError`
    where no image gave a spectrum.
    """
    if min(request.k) < 2:
        raise BadInputError(f"--k {min(request.k)}: the bound of Proposition 4.1 needs k >= 2")
    cases = request.cases
    job = prepare_job(
        RankRequest(
            request.dataset,
            root=request.root,
            split=request.split,
            encoder=request.encoder,
            weights=request.weights,
            limit=request.limit,
            device=request.device,
            dtype=request.dtype,
            keep="1",
        )
    )
    rank = _check_cases(job, cases)
    if request.out is None:
        return _document(job, request, cases, rank)
    facts = {"kind": "analyze-scores", "format": FORMAT, "dataset": job.plan["dataset"], "encoder": job.plan["encoder"]}
    plan = {
        **facts,
        "device": request.device,
        "cases": [[case.k, case.p, case.q] for case in cases],
        "seed": request.seed,
    }
    with folder_lock(request.out):
        open_output(request.out, plan, force=request.force)
        finished = _whole_document(request.out / DOCUMENT_FILE)
        document = _document(job, request, cases, rank) if finished is None else finished
        write_text(request.out / "analysis.html", spectra_html(document))  # a view of the document: always made anew
        if finished is None:
            write_text(request.out / DOCUMENT_FILE, pretty_json(document))  # last: it says that the work is done
    return document


def _whole_document(path: Path) -> dict[str, Any] | None:
    """A finished document, if it is as it was written; else the work is done again."""
    if not path.is_file():
        return None
    try:
        document = read_json(path)
    except BadInputError as error:
        _log.warning("%s; made again", error)
        return None
    if isinstance(document, dict) and document == _sealed(document):
        return document
    _log.warning("%s was edited or is of an older version; made again", path)
    return None


def _sealed(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the digest of everything else in it."""
    content = {key: value for key, value in document.items() if key != "sha256"}
    return {**content, "sha256": digest_of(content)}


def _check_cases(job: RankJob, cases: list[Rsvd]) -> int:
    """Singular values a Jacobian has, from one forward pass; every k must leave some of them."""
    failures: list[dict[str, str]] = []
    for index in range(job.images):
        prepared = _read(job, range(index, index + 1), failures)[1]
        if len(prepared):
            break
    else:
        raise _nothing_analysed(job, failures)
    with torch_threads(int(job.plan["encoder"]["threads"])), user_code(job.encoder_name):
        rank = _rank(job.encoder, prepared)
    too_large = [case.k for case in cases if case.k >= rank]
    if too_large:
        raise BadInputError(f"--k {max(too_large)}: there are only {rank} singular values; choose smaller k")
    return rank


def _nothing_analysed(job: RankJob, failures: list[dict[str, str]]) -> NothingScoredError:
    return NothingScoredError(
        f"none of the {job.images} images gave a spectrum; the first: {failures[0]['id']}: {failures[0]['error']}"
    )


def _document(job: RankJob, request: AnalysisRequest, cases: list[Rsvd], rank: int) -> dict[str, Any]:
    sigmas: list[Tensor] = []
    found: list[list[Tensor]] = [[] for _ in cases]
    failures: list[dict[str, str]] = []
    size = micro_batch_of(job.encoder)
    with torch_threads(int(job.plan["encoder"]["threads"])):
        for start in range(0, job.images, size):
            indices, prepared = _read(job, range(start, min(start + size, job.images)), failures)
            if not indices:
                continue
            with user_code(job.encoder_name):
                jacobian = _deflated(job.encoder, prepared)
            finite = jacobian.isfinite().flatten(1).all(dim=1)
            failures += [
                {"id": job.source.ids[index], "error": "the encoder's Jacobian is not finite here"}
                for index, good in zip(indices, finite.tolist(), strict=True)
                if not good
            ]
            kept = [index for index, good in zip(indices, finite.tolist(), strict=True) if good]
            if not kept:
                continue
            sigmas.append(singular_values(jacobian[finite], keep=rank))
            for case, parts in zip(cases, found, strict=True):
                parts.append(_approximate(jacobian[finite], case, request.seed, kept))
    if not sigmas:
        raise _nothing_analysed(job, failures)
    sigma = torch.cat(sigmas)
    rows = [_row(sigma, torch.cat(parts), case) for case, parts in zip(cases, found, strict=True)]
    document = {
        "dataset": {**job.source.spec.as_dict(), "images": sigma.shape[0], "failed": len(failures)},
        "failures": failures,
        "encoder": job.plan["encoder"],
        "singular_values": rank,
        "seed": request.seed,
        "offset_from": OFFSET_FROM,
        "spectrum": spectrum_facts(sigma),
        "cases": rows,
        "proposition_4_1": {
            "checked": sum(row["checked"] for row in rows),
            "violated": sum(row["violated"] for row in rows),
        },
    }
    return _sealed(document)


def _read(job: RankJob, indices: range, failures: list[dict[str, str]]) -> tuple[list[int], Tensor]:
    """Indices and network inputs of the images that can be read; the others are added to `failures`."""
    read: list[int] = []
    inputs: list[Tensor] = []
    for index in indices:
        try:
            image = job.source.load(index)
        except ImageDecodeError as error:
            failures.append({"id": job.source.ids[index], "error": str(error)})
            continue
        with user_code(job.encoder_name):
            inputs.append(prepare_images(job.encoder, [image]))
        read.append(index)
    with user_code(job.encoder_name):
        return read, stack_inputs(job.encoder, inputs)


def _deflated(encoder: Encoder, prepared: Tensor) -> Tensor:
    """Jacobians `(B, d, n)` without the head's structural null directions, float64."""
    graph = JacobianGraph(encoder, pad_rows(prepared, micro_batch_of(encoder)))
    rows, nulls = graph.rows()[: len(prepared)], null_basis(encoder, graph.z)
    return rows.to(torch.float64) if nulls is None else project_out(rows, nulls[: len(prepared)])


def _rank(encoder: Encoder, prepared: Tensor) -> int:
    """Singular values that are not structurally zero."""
    with torch.no_grad(), torch_threads(threads_of(encoder)):
        z = embed(encoder, prepared[:1])
    nulls = null_basis(encoder, z)
    return min(z.shape[1] - (0 if nulls is None else nulls.shape[2]), prepared[0].numel())


def _approximate(jacobian: Tensor, case: Rsvd, seed: int, indices: list[int]) -> Tensor:
    """The k largest singular values by randomised SVD, float64 `(B, k)`, each image with probes of its own."""
    products = DenseJacobian(jacobian)
    probes = ImageStreams(seed, indices).normal((case.probes, products.inputs), "score-probes").to(jacobian)
    return top_k(products, range_basis(products, probes, case.q), case.k).sigma


def spectrum_facts(sigma: Tensor) -> dict[str, list[float]]:
    """By position i, over images: mean and variance of sigma_i and of log sigma_i, and the shares of both total
    variances that positions 1..i hold (figure 5 of arXiv:2605.24631 shows the first; the score sums logarithms).

    `sigma` `(N, r)`, descending; variances with divisor N.
    """
    logs = sigma.clamp_min(LOG_FLOOR).log()
    facts: dict[str, list[float]] = {}
    for name, values in (("sigma", sigma), ("log", logs)):
        variance = values.var(dim=0, correction=0)
        total = variance.sum().clamp_min(torch.finfo(torch.float64).tiny)
        facts[f"{name}_mean"] = values.mean(dim=0).tolist()
        facts[f"{name}_variance"] = variance.tolist()
        facts[f"{name}_cumulative"] = (variance.cumsum(dim=0) / total).tolist()
    return facts


def _row(sigma: Tensor, approximate: Tensor, case: Rsvd) -> dict[str, Any]:
    """A line of Table 5, means over images, with how well the top k stands for the whole score."""
    terms: ErrorTerms = error_terms(sigma, approximate, case.q)
    holds = terms.holds
    score = log_sum(sigma).numpy()
    exact, rough = log_sum(sigma[:, : case.k]).numpy(), log_sum(approximate).numpy()
    return {
        "k": case.k,
        "p": case.p,
        "q": case.q,
        **{name: _finite(float(getattr(terms, name).mean())) for name in _TERMS},
        "checked": len(holds),
        "violated": int((~holds).sum()),
        "spearman_top_k": _rank_correlation(exact, score),
        "r2_top_k": _explained(exact, score),
        "spearman_rsvd": _rank_correlation(rough, score),
        "r2_rsvd": _explained(rough, score),
    }


def _finite(value: float) -> float | None:
    """The value, or None where it is undefined, such as the offset's share of a tail of zero: JSON has no NaN."""
    return value if math.isfinite(value) else None


def _rank_correlation(a: Array, b: Array) -> float | None:
    """Spearman's rho; None where it says nothing."""
    return None if len(a) < _LEAST_IMAGES else _finite(rank_correlation(a, b))


def _explained(a: Array, b: Array) -> float | None:
    """R^2, the square of Pearson's correlation; None where it says nothing."""
    if len(a) < _LEAST_IMAGES or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1]) ** 2
