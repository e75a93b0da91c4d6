"""What can be wrong with the command of a run record: it must be one that minoritybench writes, and give the record."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from minoritybench.embedded.weights import SHIPPED_GENERATORS
from minoritybench.methods import check_known, configure, parse_settings
from minoritybench.records import BenchmarkSpec, RunRecord, TextSpec, validated
from minoritybench.references import LoadedReference
from minoritybench.store import canonical_json

LONGEST_COMMAND = 2_000
_FROM_PYTHON = "minoritybench.evaluate"  # the command of records that the function of that name made


def command_faults(record: RunRecord) -> Iterator[str]:
    """The page tells people to paste it into a shell: it must be what minoritybench writes, and of this record."""
    if record.command == _FROM_PYTHON:
        return
    words = _words(record)
    if words[:2] != ["minoritybench", "evaluate"] or shlex.join(words) != record.command:
        yield f"command is not `minoritybench evaluate ...` as minoritybench quotes it, nor {_FROM_PYTHON!r}"
    for flag, told in (("--method", record.method.name), ("--benchmark", record.benchmark)):
        for given in _given(words, flag):
            if given != told:
                yield f"command has {flag} {given[:60]!r}, the record is of {told!r}"


def request_faults(record: RunRecord, benchmark: BenchmarkSpec, reference: LoadedReference) -> Iterator[str]:
    """Flags of the command, given or left out, by which it would make another record than this one today.

    Errors: settings that the method or the chain does not take (exit 2).
    """
    words = _words(record)
    if words[:2] != ["minoritybench", "evaluate"] or any(command_faults(record)):
        return  # told by `command_faults`, or made from Python, which leaves no flags
    sampling = record.sampling
    guides, numbers, seeds = (_given(words, flag) for flag in ("--guide", "--n", "--seed"))
    told = {
        "--method": (_given(words, "--method"), [record.method.name]),
        "--benchmark": (_given(words, "--benchmark") or ["digits"], [record.benchmark]),
        "--generator": (_given(words, "--generator") or [benchmark.generator], [record.generator.name]),
        "--guide": (guides or [benchmark.guide], [record.encoder.guide]),
        "--n": (numbers or [str(benchmark.n)], [str(sampling.n)]),
        "--seed": (seeds or [str(seed) for seed in benchmark.seeds], [str(seed) for seed in sampling.seeds]),
        "--judge": (_judges(words, record, benchmark, reference), sorted(record.encoder.judges)),
    }
    for flag, (asked, found) in told.items():
        if asked != found:
            yield f"command asks for {flag} {_listed(asked)}, the record has {_listed(found)}"
    if "--samples" in words:
        yield "command has --samples, the record is of a method"
    by_label = "--class-conditional" in words
    if by_label != sampling.class_conditional and (by_label or benchmark.generator in SHIPPED_GENERATORS):
        yield f"command {'has' if by_label else 'lacks'} --class-conditional, the record says the opposite"
    yield from _setting_faults(words, record, benchmark)
    yield from _chain_faults(words, record, benchmark)


def _setting_faults(words: Sequence[str], record: RunRecord, benchmark: BenchmarkSpec) -> Iterator[str]:
    check_known(record.method.name)  # a name may be path/to/file.py:X, and resolving it would run the file
    settings = dict(parse_settings(tuple(_given(words, "--set"))))
    method = configure(record.method.name, settings, benchmark)
    asked = {**method.params, "preset": method.preset}
    yield from _differences("--set", asked, {**record.method.params, "preset": record.method.preset})


def _chain_faults(words: Sequence[str], record: RunRecord, benchmark: BenchmarkSpec) -> Iterator[str]:
    chain = dict(parse_settings(tuple(_given(words, "--chain")), "--chain"))
    if benchmark.text is None:
        if chain:
            yield f"command has --chain, and {benchmark.name} has no prompts"
        return
    spec = validated(TextSpec, {**benchmark.text.model_dump(), **chain}, "command: --chain").model_dump(mode="json")
    found = {key: value for key, value in record.sampling.text.items() if key != "prompts_sha256"}
    if _given(words, "--prompts"):  # a file is recorded by another name than its path
        spec["prompts"] = found.get("prompts")
    yield from _differences("--chain", spec, found)


def _differences(flag: str, asked: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    for key in sorted({*asked, *found}):
        one, other = asked.get(key), found.get(key)
        if canonical_json(one) != canonical_json(other):
            yield f"command gives {flag} {key}={_short(one)}, the record has {_short(other)}"


def _judges(words: Sequence[str], record: RunRecord, benchmark: BenchmarkSpec, reference: LoadedReference) -> list[str]:
    """The held-out encoders that the command asks for, sorted: those of `--judge`, the benchmark and the reference."""
    ranked_by = [reference.recipe.encoder["name"]] if reference.recipe.rank_by == "jepa" else []
    return sorted({*ranked_by, *benchmark.judges, *_given(words, "--judge")} - {record.encoder.guide})


def _words(record: RunRecord) -> list[str]:
    try:
        return shlex.split(record.command)
    except ValueError:  # a quotation without an end
        return []


def _given(words: Sequence[str], flag: str) -> list[str]:
    """What a command's words say after a flag, `--flag value` or `--flag=value`."""
    after = [following for word, following in pairwise(words) if word == flag]
    return after + [word.removeprefix(f"{flag}=") for word in words if word.startswith(f"{flag}=")]


def _listed(values: Sequence[str]) -> str:
    return ", ".join(value[:60] for value in values) or "none"


def _short(value: Any) -> str:
    return repr(value)[:60]
