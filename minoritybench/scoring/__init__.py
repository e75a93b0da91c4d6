"""JEPA-SCORE: the log density that an encoder's Jacobian carries, `sum_i log sigma_i(J_f(x))`; low means rare."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from minoritybench.encoders.base import Encoder, micro_batch_of, name_of, null_basis, require_same_output, threads_of
from minoritybench.errors import BadInputError
from minoritybench.microbatch import pad_rows, torch_threads, without_tf32
from minoritybench.rng import ImageStreams
from minoritybench.scoring.backoff import Backoff, Portion
from minoritybench.scoring.jacobian import ROWS_PER_CHUNK, JacobianGraph
from minoritybench.scoring.rsvd import Rsvd, range_basis, top_k
from minoritybench.scoring.spectrum import Scores, joined, log_sum, scores_from_jacobian
from minoritybench.scoring.vit import LinearisedVit

__all__ = ["ESTIMATORS", "Backoff", "Rsvd", "Scores", "exact_scores", "jepa_score", "rsvd_scores"]

ESTIMATORS = ("exact", "rsvd", "cascade")

_log = logging.getLogger(__name__)
_RANGE_SLACK = 1e-3


def jepa_score(
    encoder: Encoder,
    images: Tensor,
    estimator: Literal["exact", "rsvd", "cascade"] = "exact",
    mode: Literal["deflated", "reference"] = "deflated",
    *,
    k: int = 3,
    p: int = 2,
    q: int = 2,
    seed: int = 0,
    rows_per_chunk: int = ROWS_PER_CHUNK,
) -> Tensor:
    """JEPA-SCORE of images: float64 `(B,)`, natural log, low means rare.

    `encoder` is any object with `.prepare(images)` and `__call__(prepared) -> (B, d)`; the Jacobian is that of the
    call at `prepare(images)`. `images` is float `(B, 3, H, W)` in `[0, 1]`.

    `estimator="exact"`: all singular values; `mode="reference"` sums log max(sigma, 1e-6) over all min(d, n) of them
    (the published definition), `mode="deflated"` leaves out the structural null directions that the encoder declares.
    `estimator="cascade"` gives the same: a cascade saves by leaving images of a whole dataset unscored (see
    `rank_dataset`), and whoever asks for scores gets them.
    `estimator="rsvd"` is an approximation of another quantity: the sum over the k largest values that a randomised
    SVD with k + p probes and q power iterations finds outside the structural null directions, a lower bound of the
    exact top-k sum; `mode` does not enter.

    Reference: arXiv:2510.05949; arXiv:2605.24631 Eq. 3 and 8.
    """
    if mode not in ("deflated", "reference"):
        raise BadInputError(f"mode {mode!r} is not one of: deflated, reference")
    if estimator not in ESTIMATORS:
        raise BadInputError(f"estimator {estimator!r} is not one of: {', '.join(ESTIMATORS)}")
    _check_images(images)
    if images.shape[0] == 0:
        return torch.empty(0, dtype=torch.float64)
    with torch_threads(threads_of(encoder)):
        prepared = encoder.prepare(images)
    if estimator == "rsvd":
        return rsvd_scores(encoder, prepared, Rsvd(k, p, q), seed=seed, indices=range(images.shape[0]))
    scores = exact_scores(encoder, prepared, rows_per_chunk=rows_per_chunk)
    return scores.deflated if mode == "deflated" else scores.reference


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.ndim == 3:
        raise BadInputError("images must be a float tensor (B, 3, H, W) in [0, 1]; images[None] makes a batch of one")
    if not images.is_floating_point():
        raise BadInputError(f"images must be float in [0, 1], not {images.dtype}; divide 8-bit images by 255")
    if images.numel() and not (float(images.min()) >= -_RANGE_SLACK and float(images.max()) <= 1 + _RANGE_SLACK):
        _log.warning("images lie outside [0, 1], where encoders expect them: scores may mean nothing")


@without_tf32()
def exact_scores(
    encoder: Encoder,
    prepared: Tensor,
    *,
    rows_per_chunk: int = ROWS_PER_CHUNK,
    path: Literal["auto", "generic"] = "auto",
    rows_dtype: torch.dtype | None = None,
    backoff: Backoff | None = None,
    observe: Callable[[Tensor], None] | None = None,
) -> Scores:
    """Exact scores at prepared inputs `(N, ...)`, in fixed micro-batches.

    `path="auto"` takes the encoder's hand-linearised form where it offers one (`linearised()`), `"generic"` automatic
    differentiation always. `rows_dtype=torch.bfloat16`, on the linearised path only, gives an approximation for
    ranking; `Scores.approximation` says so. Where memory runs out, the generic path goes on with less at a time
    (`backoff`, a new one by default), to equal results. `observe` is shown `J J^T` `(b, d, d)` float64 on the way.
    """
    linear = _linearised(encoder) if path == "auto" else None
    if linear is None and rows_dtype is not None:
        raise BadInputError(f"rows_dtype={rows_dtype}: {name_of(encoder)} has no linearised form that could take it")
    size = micro_batch_of(encoder) if linear is None else linear.images_at_once(prepared)
    if backoff is None:
        backoff = Backoff(encoder, prepared.device, rows_per_chunk)
    parts: list[Scores] = []
    with torch_threads(threads_of(encoder)):
        for start in range(0, prepared.shape[0], size):
            block = prepared[start : start + size]
            if linear is None:
                compute = partial(_block_scores, encoder, block)
            else:
                compute = partial(
                    _linearised_scores, encoder, linear, pad_rows(block, size), block.shape[0], rows_dtype
                )
            scores = backoff.run(compute)
            if observe is not None and scores.gram is not None:
                observe(scores.gram)
            parts.append(replace(scores, gram=None))
    return joined(parts)


def _block_scores(encoder: Encoder, block: Tensor, portion: Portion) -> Scores:
    """Scores of at most a micro-batch, holding no more than `portion` at once."""
    parts: list[Scores] = []
    for start in range(0, block.shape[0], portion.graph):
        rows = block[start : start + portion.graph]
        graph = JacobianGraph(encoder, pad_rows(rows, portion.graph))
        nulls = null_basis(encoder, graph.z)
        real = rows.shape[0]  # the padding needs no linear algebra
        for first in range(0, real, portion.images):
            images = slice(first, min(first + portion.images, real))
            jacobian = graph.rows(portion.rows, images)
            parts.append(scores_from_jacobian(jacobian, None if nulls is None else nulls[images]))
    return joined(parts)


def _linearised_scores(
    encoder: Encoder, linear: LinearisedVit, padded: Tensor, real: int, rows_dtype: torch.dtype | None, _: Portion
) -> Scores:
    """Scores of the first `real` images of a padded micro-batch, by hand-written derivatives.

    The number of images was chosen to bound memory, so there is no smaller portion to fall back to.
    """
    state = linear.at(padded)
    require_same_output(encoder, padded, state.z, "linearised")
    return linear.scores(state, null_basis(encoder, state.z), real, rows_dtype)


def _linearised(encoder: Encoder) -> LinearisedVit | None:
    offered: Callable[[], LinearisedVit | None] | None = getattr(encoder, "linearised", None)
    return None if offered is None else offered()


@without_tf32()
def rsvd_scores(encoder: Encoder, prepared: Tensor, rsvd: Rsvd, *, seed: int, indices: Sequence[int]) -> Tensor:
    """Top-k sums by randomised SVD at prepared inputs `(N, ...)`: float64 `(N,)`.

    Image `indices[j]` draws its own probes from `(seed, index)`, so a score depends on neither batch nor order.
    """
    size = micro_batch_of(encoder)
    rsvd = rsvd.within(prepared[0].numel())
    totals: list[Tensor] = []
    with torch_threads(threads_of(encoder)):
        for start in range(0, prepared.shape[0], size):
            block = prepared[start : start + size]
            streams = ImageStreams(seed, indices[start : start + size])
            probes = streams.normal((rsvd.probes, block[0].numel()), "score-probes").to(block)
            graph = JacobianGraph(encoder, pad_rows(block, size))
            basis = range_basis(graph, pad_rows(probes, size), rsvd.q, null_basis(encoder, graph.z))
            totals.append(log_sum(top_k(graph, basis, rsvd.k).sigma)[: block.shape[0]].cpu())
    return torch.cat(totals)
