"""The presets of published settings, which every method takes."""

from __future__ import annotations

import pytest

from minoritybench.methods import configure
from minoritybench.records import load_benchmark
from minoritybench.registry import entries

OURS = sorted(entries("methods"))


@pytest.mark.parametrize("method", OURS)
def test_every_method_takes_the_papers_settings_and_the_codes_where_there_is_code(method: str) -> None:
    benchmark = load_benchmark("celeba64")
    for preset in ("paper", "official-code"):
        if preset == "paper" or method not in ("sehwag", "cads"):
            assert configure(method, {"preset": preset}, benchmark).preset == preset


@pytest.mark.parametrize("method", ["adm", "ddim", "bns"])
def test_presets_change_nothing_where_paper_and_code_agree(method: str) -> None:
    benchmark = load_benchmark("celeba64")
    usual = configure(method, {}, benchmark).params
    for preset in ("paper", "official-code"):
        assert configure(method, {"preset": preset}, benchmark).params == usual
