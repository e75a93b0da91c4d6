"""Configuring methods: presets that a benchmark changes, and chains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from minoritybench.baselines.jepa import Jepa
from minoritybench.baselines.sgms import Sgms
from torch import Tensor
from toy_denoisers import SHAPE, SmoothModel, step_at
from toy_encoders import LayerNormEncoder

from minoritybench.chained import Chained
from minoritybench.cli import cli
from minoritybench.diffusion.step import Method, StepContext
from minoritybench.errors import BadInputError
from minoritybench.methods import check_known, configure
from minoritybench.perceptual import euclidean
from minoritybench.records import BenchmarkSpec, TextSpec, load_benchmark, validated

DIGITS = load_benchmark("digits")


def benchmark(**methods: Any) -> BenchmarkSpec:
    return validated(BenchmarkSpec, {**DIGITS.model_dump(), "methods": methods}, "test.toml")


def test_a_benchmark_has_the_last_word_on_a_preset_but_for_the_user() -> None:
    spec = benchmark(
        jepa={"eta": 0.06, "k": 9, "presets": {"official-code": {"schedule": "constant", "tau": 0.7, "eta": 0.05}}}
    )
    usual = configure("jepa", {}, spec).params
    assert [usual[key] for key in ("eta", "k", "schedule", "tau")] == [0.06, 9, "variance", 0.8]
    code = configure("jepa", {"preset": "official-code", "tau": "0.6"}, spec).params
    assert [code[key] for key in ("eta", "k", "schedule", "tau")] == [0.05, 9, "constant", 0.6]
    assert code["products"] == "finite-difference"  # the preset's own
    assert "presets" not in code
    assert configure("jepa", {"preset": "paper"}, spec).params["schedule"] == "variance"


def test_preset_tables_must_be_tables() -> None:
    with pytest.raises(BadInputError, match=r"test\.toml: methods.*jepa\.presets"):
        benchmark(jepa={"presets": {"paper": 3}})


def test_a_chain_takes_settings_by_method() -> None:
    chain = configure("ddim+jepa", {"jepa.eta": "1.5", "preset": "paper"}, DIGITS)
    own = configure("jepa", {"eta": "1.5", "preset": "paper"}, DIGITS)
    assert chain.params == {"ddim.stochasticity": 0.0, **{f"jepa.{key}": value for key, value in own.params.items()}}
    assert (chain.name, chain.preset) == ("ddim+jepa", "paper")
    assert (chain.instance.transition, chain.instance.spacing) == ("ddim", "ddim")
    assert chain.needs(False) == {"encoder"}
    assert configure("ddim+jepa", {**chain.params, "preset": "paper"}, DIGITS).params == chain.params


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("ddim+adm", {}, "each has its own transition"),
        ("jepa+jepa", {}, "names one twice"),
        ("jepa+magic", {}, "unknown method 'magic'"),
        ("cads+", {}, r"method 'cads\+': a name is missing after the last \+"),
        ("+jepa", {}, r"missing before the first \+"),
        ("cads++jepa", {}, r"missing between two \+"),
        ("jepa+mg", {}, "mg needs preparing"),
        ("cads+minorityprompt", {}, "put it first, minorityprompt\\+cads"),
        ("ddim+jepa", {"eta": 1}, "--set eta: in ddim\\+jepa write ddim.NAME.*; did you mean 'jepa.eta'"),
        ("cads+jepa", {"jpea.eta": 1}, "--set jpea.eta: .*; did you mean 'jepa.eta'"),
        ("sgms+jepa", {"interval": 1}, "did you mean 'sgms.interval' or 'jepa.interval'"),
        ("ddim+jepa", {"sgms.w": 1}, "--set sgms.w"),
        ("ddim+jepa", {"jepa.preset": "paper"}, "preset=... for all"),
        ("ddim+jepa", {"jepa.beta": 1}, "jepa has no such hyperparameter"),
    ],
)
def test_chains_that_make_no_sense_are_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        configure(name, settings, DIGITS)


def test_chains_are_known_to_the_command_line_and_to_boards() -> None:
    check_known("cads+jepa")
    with pytest.raises(BadInputError, match="unknown method"):
        check_known("cads+magic")
    with pytest.raises(BadInputError, match=r"^unknown method 'mine/drift.py:Drift': boards take .*CONTRIBUTING\.md"):
        check_known("mine/drift.py:Drift")
    found = CliRunner().invoke(cli, ["sample", "--method", "ddim+jepa", "--n", "1", "--out", "x", "--dry-run"])
    assert found.exit_code == 0
    assert "jepa.eta" in found.output


def test_corrections_of_a_chain_add_up_each_by_a_gradient_of_its_own() -> None:
    methods = {"sgms": Sgms(distance="l2", interval=1), "jepa": Jepa(interval=1, tau=1.0, p=9)}
    x_t = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def step() -> StepContext:
        context = step_at(10, x_t, SmoothModel(), **{"distance:l2": euclidean, "encoder": LayerNormEncoder(27, 12)})
        context.mean = torch.zeros_like(x_t)
        return context

    alone = [method.correct(step()) for method in methods.values()]
    together = Chained(methods).correct(step())
    assert alone[0] is not None
    assert alone[1] is not None
    assert together is not None
    assert torch.allclose(together, alone[0] + alone[1], rtol=1e-12)


def test_conditions_and_moves_hand_on_what_they_made() -> None:
    @dataclass(frozen=True)
    class Adds(Method):
        value: float

        def condition(self, step: StepContext, labels: Tensor) -> Tensor:
            return 10 * labels + self.value

        def pre_step(self, step: StepContext) -> Tensor:
            return 10 * step.x_t + self.value

    step = step_at(10, torch.zeros(1, *SHAPE, dtype=torch.float64), SmoothModel())
    chain = Chained({"one": Adds(1.0), "two": Adds(2.0)})
    assert chain.condition(step, torch.zeros(1)).item() == 12.0
    assert (chain.pre_step(step) == 12.0).all()
    assert not chain.guides(10, step.schedule)
    assert chain.correct(step) is None


@pytest.mark.parametrize("method", ["mg", "sehwag", "sgms", "jepa+sgms"])
def test_methods_of_images_refuse_prompts(method: str) -> None:
    spec = benchmark().model_copy(update={"text": TextSpec(prompts="p.txt", guidance_scale=1.0)})
    with pytest.raises(BadInputError, match="digits"):
        configure(method, {}, spec).instance.check_use(spec, False)
    for fine in ("adm", "ddim", "jepa", "bns", "cads", "minorityprompt"):
        refuse = getattr(configure(fine, {}, spec).instance, "check_use", None)
        assert refuse is None or refuse(spec, False) is None
