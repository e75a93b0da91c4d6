"""Run a filed record's measurement again, here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minoritybench.evaluation import evaluate
from minoritybench.records import RunRecord, TextSpec


def measure_again(record: RunRecord, seeds: Sequence[int], out: Path) -> RunRecord:
    """The record that the present code makes of some seeds of a filed one, with its method, settings, labels, guide,
    generator and chain. Errors: those of `evaluate`."""
    text = record.sampling.text
    return evaluate(
        record.method.name,
        benchmark=record.benchmark,
        n=record.sampling.n,
        seeds=tuple(seeds),
        settings={**record.method.params, "preset": record.method.preset},
        class_conditional=record.sampling.class_conditional,
        guide=record.encoder.guide,
        generator=record.generator.name,
        prompts=text.get("prompts"),
        chain={key: text[key] for key in TextSpec.model_fields if key in text and key != "prompts"},
        out=out,
    )
