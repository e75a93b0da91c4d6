"""Sampling as on a GPU, with a stand-in: how many images a call takes, what is done when memory runs out."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minoritybench import sample_shard
from minoritybench.diffusion.loop import run_chain
from minoritybench.microbatch import without_tf32
from minoritybench.sample_job import Sampler, SampleRequest, make_plan, open_sampler
from minoritybench.scoring.backoff import MemoryExhaustedError


class Device:
    """A fake GPU for the digits generator: `room` images fit; the sizes of its batches and TF32 are noted."""

    def __init__(self, model: Any, room: int) -> None:
        self._model, self.room = model, room
        self.sizes: list[int] = []
        self.tf32: list[bool] = []
        self.threads = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, x_t: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        if not self.sizes or self.sizes[-1] != len(x_t):
            self.sizes.append(len(x_t))
        self.tf32.append(torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
        if len(x_t) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self._model.predict(x_t, timestep, labels)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains of device `cuda` run on the CPU."""

    def chain(*args: Any, device: str, **options: Any) -> Any:
        return run_chain(*args, **options)

    monkeypatch.setattr(sample_shard, "run_chain", chain)


def sampler(room: int) -> tuple[Sampler, Device]:
    opened = open_sampler(SampleRequest("adm"))
    device = Device(opened.model, room)
    return replace(opened, model=device), device  # type: ignore[arg-type]


def drawn(room: int, count: int, **request: Any) -> tuple[list[Any], Device]:
    opened, device = sampler(room)
    images, _, _ = sample_shard.sample_images(
        opened, SampleRequest("adm", device="cuda", **request), seed=7, indices=range(count)
    )
    return images, device


def test_memory_that_runs_out_halves_the_batch_and_loses_no_image(
    on_cpu: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        images, device = drawn(room=5, count=13, batch_size=16)
    assert device.sizes == [16, 8, 4]
    assert [record.args for record in caplog.records] == [(8,), (4,)]
    whole, _ = drawn(room=64, count=13)
    for image, other in zip(images, whole, strict=True):
        assert abs(image.astype(int) - other.astype(int)).max() <= 1


def test_one_image_that_does_not_fit_is_told(on_cpu: None) -> None:
    with pytest.raises(MemoryExhaustedError, match=r"one image at a time \(4 before\)"):
        drawn(room=0, count=4, batch_size=4)


def test_a_cpu_never_splits_its_micro_batch() -> None:
    opened, device = sampler(room=5)
    with pytest.raises(torch.OutOfMemoryError):
        sample_shard.sample_images(opened, SampleRequest("adm"), seed=7, indices=range(4))
    assert device.sizes == [64]


@pytest.mark.parametrize(("batch_size", "sizes"), [(None, [64]), (7, [7]), (200, [130])])
def test_a_call_takes_as_many_images_as_were_asked_for(batch_size: int | None, sizes: list[int], on_cpu: None) -> None:
    images, device = drawn(room=1000, count=130, batch_size=batch_size)
    assert len(images) == 130
    assert device.sizes == sizes


def test_tf32_is_off_while_sampling_and_as_it_was_afterwards(on_cpu: None) -> None:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        _, device = drawn(room=64, count=1)
        assert not any(device.tf32)
        assert torch.backends.cudnn.allow_tf32
        with pytest.raises(KeyError), without_tf32():
            raise KeyError
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = before


def test_shards_and_identity_by_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Shards grow with the batch size on a GPU only, and are then part of what is sampled; threads count on a CPU."""
    opened, _ = sampler(room=64)
    monkeypatch.setattr("minoritybench.sample_job.open_sampler", lambda request: opened)

    def plan(device: str, batch_size: int | None) -> tuple[int, Any, bool, int | None]:
        made, facts = make_plan(SampleRequest("adm", device=device, batch_size=batch_size), tmp_path)
        return made.shard_size, facts.get("images_at_once"), "generator_threads" in facts, made.threads

    threads = torch.get_num_threads()
    assert plan("cpu", None) == plan("cpu", 200) == (64, None, True, threads)
    assert plan("cuda", None) == plan("cuda", 8) == (64, None, False, None)
    assert plan("cuda", 200) == (200, 200, False, None)
