"""Running out of memory costs time, never digits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toy_encoders import LayerNormEncoder, PlainEncoder

from minoritybench import load_encoder
from minoritybench.errors import BadInputError
from minoritybench.scoring import Backoff, Scores, exact_scores
from minoritybench.scoring.backoff import MemoryExhaustedError, Portion, is_out_of_memory
from minoritybench.scoring.jacobian import JacobianGraph
from minoritybench.scoring.vit import LinearisedVit

FAULTS = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 80 bytes"),
    MemoryError(),
]


def scarce(monkeypatch: pytest.MonkeyPatch, fault: Exception, *, rows: int, images: int = 99) -> list[Portion]:
    """Let Jacobians of more than `rows` rows a pass or of more than `images` images fail; returns what was tried."""
    whole, tried = JacobianGraph.rows, []

    def limited(graph: JacobianGraph, chunk: int, kept: slice) -> Tensor:
        tried.append(Portion(chunk, kept.stop - kept.start, graph.batch))
        if chunk > rows or kept.stop - kept.start > images:
            raise fault
        return whole(graph, chunk, kept)

    monkeypatch.setattr(JacobianGraph, "rows", limited)
    return tried


def assert_equal(found: Scores, wanted: Scores) -> None:
    for name in ("reference", "deflated", "rank_deficit", "sigma"):
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name


@pytest.mark.parametrize(
    ("name", "rows", "images"),
    [("digits-jepa", 8, 99), ("digits-jepa", 1, 20), ("digits-jepa", 1, 1), ("digits-ijepa", 3, 99)],
)
def test_scores_are_equal_bit_for_bit(
    name: str, rows: int, images: int, digits: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_encoder(name)
    prepared = encoder.prepare(digits[:70])  # a full micro-batch of 64 and a short one
    wanted = exact_scores(encoder, prepared, path="generic")
    tried = scarce(monkeypatch, MemoryError(), rows=rows, images=images)
    assert_equal(exact_scores(encoder, prepared, path="generic"), wanted)
    assert tried[0] == Portion(16, 64, 64)
    assert {portion.graph for portion in tried} == {64}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_what_failed_once_is_not_tried_again(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = LayerNormEncoder(12, 6)
    tried = scarce(monkeypatch, fault, rows=4)
    backoff = Backoff(encoder, "cpu")
    images = torch.rand(20, 3, 2, 2, dtype=torch.float64)
    exact_scores(encoder, images, backoff=backoff)
    assert [portion.rows for portion in tried] == [16, 8, 4, 4, 4]
    exact_scores(encoder, images[:1], backoff=backoff)
    assert tried[-1].rows == backoff.portion.rows == 4


def test_on_the_cpu_the_micro_batch_is_never_split(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = LayerNormEncoder(12, 6)
    scarce(monkeypatch, MemoryError(), rows=0)
    with pytest.raises(MemoryExhaustedError, match=r"network call of 8 images.*--workers") as caught:
        exact_scores(encoder, torch.rand(8, 3, 2, 2, dtype=torch.float64))
    assert caught.value.exit_code == 5


def test_on_a_gpu_it_is_and_scores_stay_within_rounding() -> None:
    largest = 3

    def function(x: Tensor) -> Tensor:
        if x.shape[0] > largest:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return whole(x)

    whole = LayerNormEncoder(12, 6)
    small = PlainEncoder(function)
    small.null_directions = whole.null_directions  # type: ignore[attr-defined]
    images = torch.rand(11, 3, 2, 2, dtype=torch.float64)
    backoff = Backoff(small, "meta")  # any device but the CPU; the arithmetic is done here
    found, wanted = exact_scores(small, images, backoff=backoff), exact_scores(whole, images)
    assert backoff.portion == Portion(1, 1, 2)
    # the null directions carry rounding only, so `reference` is no more stable than the last bits are
    assert torch.allclose(found.deflated, wanted.deflated, rtol=0, atol=1e-10)
    assert torch.allclose(found.sigma, wanted.sigma, rtol=1e-10)


def test_other_errors_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    for fault in (RuntimeError("shapes do not match"), BadInputError("no")):
        tried = scarce(monkeypatch, fault, rows=0)
        with pytest.raises(type(fault), match=str(fault)):
            exact_scores(LayerNormEncoder(12, 6), torch.rand(2, 3, 2, 2, dtype=torch.float64))
        assert len(tried) == 1
        monkeypatch.undo()
    assert not is_out_of_memory(RuntimeError("index out of range"))


def test_a_linearised_encoder_that_does_not_fit_is_one_line(digits: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(LinearisedVit, "at", full)
    encoder = load_encoder("digits-ijepa")
    with pytest.raises(MemoryExhaustedError, match="out of memory"):
        exact_scores(encoder, encoder.prepare(digits[:2]))
