"""Several methods acting on one chain: `cads+jepa`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from minoritybench.diffusion.schedule import Schedule
from minoritybench.diffusion.step import StepContext
from minoritybench.diffusion.text import Condition
from minoritybench.errors import BadInputError
from minoritybench.records import BenchmarkSpec

_ALONE = ("initial", "eps_shift", "transition")


class Chained:
    """Methods by name, their hooks in the order given: conditions and `pre_step` hand on what they made, corrections
    are added up. Of `initial`, `eps_shift` and a transition of its own, each may come from one method only; methods
    that need preparing cannot be chained. Errors exit 2."""

    def __init__(self, methods: Mapping[str, Any]) -> None:
        self.methods = dict(methods)
        owners = {hook: [n for n, method in self.methods.items() if _has(method, hook)] for hook in _ALONE}
        for hook, names in owners.items():
            if len(names) > 1:
                raise BadInputError(f"{' and '.join(names)} cannot be chained: each has its own {hook}")
        conditions = [name for name, method in self.methods.items() if _has(method, "condition")]
        for name in conditions[1:]:
            if getattr(self.methods[name], "replaces_condition", False):
                raise BadInputError(f"{name} encodes the prompts anew: put it first, {name}+{conditions[0]}")
        for name, method in self.methods.items():
            if _has(method, "prepare"):
                raise BadInputError(f"{name} needs preparing, and such methods cannot be chained")
        for hook in ("initial", "eps_shift"):
            if owners[hook]:
                setattr(self, hook, getattr(self.methods[owners[hook][0]], hook))
        leader = self.methods[owners["transition"][0]] if owners["transition"] else None
        self.transition: str | None = getattr(leader, "transition", None)
        self.stochasticity: float = getattr(leader, "stochasticity", 0.0)
        self.spacing: str = getattr(leader, "spacing", "")

    def needs(self, class_conditional: bool) -> frozenset[str]:
        """All that any of them needs."""
        asked = [
            method.needs(class_conditional) if _has(method, "needs") else getattr(method, "requires", ())
            for method in self.methods.values()
        ]
        return frozenset().union(*asked)

    def check_use(self, benchmark: BenchmarkSpec, class_conditional: bool) -> None:
        """Let each refuse."""
        for refuse in self._hooks("check_use"):
            refuse(benchmark, class_conditional)

    def guides(self, index: int, schedule: Schedule) -> bool:
        """Whether any needs the graph of the base pass."""
        return any(guides(index, schedule) for guides in self._hooks("guides"))

    def condition(self, step: StepContext, labels: Condition) -> Condition:
        """Each method's condition of the one before."""
        for hook in self._hooks("condition"):
            labels = step.labels = hook(step, labels)
        return labels

    def pre_step(self, step: StepContext) -> Tensor:
        """Each moves the state that the one before left."""
        for hook in self._hooks("pre_step"):
            step.x_t = hook(step).detach()
        return step.x_t

    def correct(self, step: StepContext) -> Tensor | None:
        """The sum of the corrections. A graph lasts for one gradient, so that where several methods guide a step each
        after the first has the network evaluated anew."""
        total: Tensor | None = None
        used = False
        for method in self.methods.values():
            if not _has(method, "correct"):
                continue
            guides = _has(method, "guides") and method.guides(step.index, step.schedule)
            delta = method.correct(_again(step) if guides and used else step)
            used = used or guides
            if delta is not None:
                total = delta.detach() if total is None else total + delta.detach()
        return total

    def objective(self, step: StepContext) -> dict[str, Tensor]:
        """What each seeks."""
        return {name: value for seeks in self._hooks("objective") for name, value in seeks(step).items()}

    def _hooks(self, name: str) -> list[Callable[..., Any]]:
        return [getattr(method, name) for method in self.methods.values() if _has(method, name)]


def _has(method: Any, hook: str) -> bool:
    return getattr(method, hook, None) is not None


def _again(step: StepContext) -> StepContext:
    with torch.enable_grad():
        again = step.evaluated(step.labels)
    again.mean = step.mean
    return again
