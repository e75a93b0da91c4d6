"""One shard of sampling: its images, their PNG files and a receipt."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minoritybench.diffusion.loop import run_chain
from minoritybench.microbatch import torch_threads, without_tf32
from minoritybench.provenance import peak_memory_bytes, tool_record
from minoritybench.registry import user_code
from minoritybench.report.pictures import png_bytes
from minoritybench.rng import ImageStreams
from minoritybench.sample_job import SamplePlan, Sampler, SampleRequest, open_sampler
from minoritybench.scoring.backoff import MemoryExhaustedError, is_out_of_memory, release_memory
from minoritybench.store import Receipts, sha256_bytes, write_bytes

STAGE = "sample"
FACTS = frozenset({"rows", "seconds", "passes", "tool", "peak_memory_bytes"})
LABEL_STREAM = "labels"
_log = logging.getLogger(__name__)

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def sample_shard(plan: SamplePlan, shard: int) -> None:
    """Draw one shard: its PNG files first, its receipt last."""
    sampler = _sampler(plan.request, plan.token)
    tool = tool_record().model_dump()
    started = perf_counter()
    seed, indices = plan.images(shard)
    rows, files = [], []
    folder = Path(plan.out) / f"seed-{seed}"
    with torch_threads(plan.threads):
        images, labels, passes = sample_images(sampler, plan.request, seed, indices)
    for index, pixels, label in zip(indices, images, labels, strict=True):
        data = png_bytes(pixels)
        path = folder / f"{index:05d}.png"
        write_bytes(path, data)
        files.append(path)
        rows.append(
            {
                "file": f"{folder.name}/{path.name}",
                "seed": seed,
                "index": index,
                "label": label,
                "sha256": sha256_bytes(data),
                **({} if sampler.text is None else {"prompt": sampler.text.prompts.texts[index]}),
            }
        )
    facts = {
        "rows": rows,
        "seconds": perf_counter() - started,
        "passes": passes,
        "tool": tool,
        "peak_memory_bytes": peak_memory_bytes(plan.request.device),
    }
    Receipts(Path(plan.out), STAGE, plan.token).write(shard, files, facts)


def sample_images(
    sampler: Sampler, request: SampleRequest, seed: int, indices: Sequence[int]
) -> tuple[list[Pixels], list[int | None], dict[str, int]]:
    """Draw images `indices` of run `seed`: uint8 `(H, W, 3)` each, their labels, and the passes a sample cost.

    On a CPU every network call runs on the model's fixed micro-batch, whatever `batch_size` was asked for, so that
    images are the same bit for bit. On a GPU, whose results are stated within a tolerance anyway, a call takes
    `batch_size` images (by default a micro-batch), and half as many each time memory runs out.
    """
    size = sampler.model.micro_batch
    if request.device != "cpu":
        size = min(request.batch_size or size, max(size, len(indices)))
    asked = size
    pixels: list[Pixels] = []
    labels: list[int | None] = []
    passes: dict[str, int] = {}
    while len(pixels) < len(indices):
        block = list(indices[len(pixels) : len(pixels) + size])
        try:
            images, block_labels, passes = _sample_block(sampler, request, seed, block, size)
        except (RuntimeError, MemoryError) as error:
            if request.device == "cpu" or not is_out_of_memory(error):
                raise
            if size == 1:
                raise MemoryExhaustedError(
                    f"out of memory drawing one image at a time ({asked} before): use another"
                    " --device or --dtype bfloat16; the same command resumes"
                ) from error
            size //= 2
            _log.warning("out of memory: going on with %d images at a time", size)
        else:
            pixels.extend(to_pixels(images[: len(block)]))
            labels.extend([None] * len(block) if block_labels is None else block_labels[: len(block)].tolist())
            continue
        release_memory()  # only here is the failed attempt's traceback, which holds its tensors, gone
    return pixels, labels, passes


def _sample_block(
    sampler: Sampler, request: SampleRequest, seed: int, block: list[int], size: int
) -> tuple[Tensor, Tensor | None, dict[str, int]]:
    """One network batch of `size`, filled up with repeats of its first image."""
    model = sampler.model
    streams = ImageStreams(seed, block + block[:1] * (size - len(block)))
    labels = None
    if sampler.class_conditional and model.num_classes is not None:
        labels = streams.integers(model.num_classes, LABEL_STREAM).to(request.device)
    schedule, text = sampler.schedule(), sampler.text
    resources = {name: need.value for name, need in sampler.needs.items()}
    passes: Counter[str]
    with (
        without_tf32(),
        torch_threads(model.threads),
        user_code(sampler.generator),
        user_code(sampler.method.name),
        user_code(sampler.guide),
    ):
        state, passes = run_chain(
            model,
            schedule,
            sampler.method.instance,
            streams,
            labels if text is None else text.encoded(streams.indices),
            resources=resources,
            start_scale=1.0 if text is None else text.start_scale(schedule),
            device=request.device,
        )
        with torch.no_grad():
            images = model.decode(state)
            finish = getattr(model, "finish", None)  # a cascade's second stage, never guided
            if finish is not None:
                images = finish(images, labels, streams, passes)
    return images, labels, dict(sorted(passes.items()))


def to_pixels(images: Tensor) -> list[Pixels]:
    """Nominal `[0, 1]` `(B, 3, H, W)` to uint8 `(H, W, 3)`: clamped, rounded to nearest, no stretching."""
    levels = (images.clamp(0.0, 1.0) * 255.0 + 0.5).floor().to(torch.uint8)
    return list(levels.permute(0, 2, 3, 1).cpu().numpy())


@lru_cache(maxsize=1)
def _sampler(request: SampleRequest, token: str) -> Sampler:
    """Opened once a process; `token` changes with the content of anything the request names."""
    return open_sampler(request)
