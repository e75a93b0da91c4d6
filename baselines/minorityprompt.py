"""MinorityPrompt: optimise a token appended to the prompt so that the model restores its own estimate badly.

Card
    Paper      Um and Ye 2025, Minority-Focused Text-to-Image Generation via Prompt Optimization, arXiv:2410.07838
               (CVPR 2025)
    Defaults   K 10 iterations of Adam at 1e-2 on steps with t > 0.9 T, token begun at the vocabulary's mean (the
               code's own defaults for SD 1.5; the settings behind published figures of SD 1.5 are not known)
    Cost       an optimised step adds, each of K times, two forwards and two backwards of the conditional denoiser and a
               forward and a backward of the text encoders, and one text forward at its end
    Paper and  norm: the paper squares it. level: the paper noises the estimate to T - t, the code to T - (t - skip + 1)
    code       (`code`) or to a fixed 0.75 T (`fixed`). keep: between optimised steps the paper goes back to the prompt,
               the code keeps the last token. pooled: the code reads SDXL's pooled embedding at the token, for it is the
               largest id (`official`); `eos` is where the model was trained to have it. Preset `paper` takes the
               paper's side with `eos`, and so does the default; `official-code` takes the code's.
    Departures the code's level is 1000 or more at the last step (Lightning) and an index error there (SD 1.5, 50 steps:
               1018); here every level is clamped to [0, T - 1], under every preset. A token begun at an untrained row,
               which is what the code's default was in its libraries, is not offered. The tokenizer and the embedding
               table stay as they are: the token's vector is put in its place behind the prompt.
    Notes      The token of an image depends on no other: losses are summed, and Adam works entry by entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from minoritybench.diffusion.schedule import Schedule
from minoritybench.diffusion.step import Method, StepContext
from minoritybench.diffusion.text import Condition, PromptOptimisable, TextCondition, TextModel, require_prompts
from minoritybench.errors import BadInputError
from minoritybench.records import BenchmarkSpec

BIBTEX = """\
@inproceedings{um2025minority,
  title = {Minority-Focused Text-to-Image Generation via Prompt Optimization},
  author = {Um, Soobin and Ye, Jong Chul},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2025},
  eprint = {2410.07838}
}
"""

NOISE_STREAM = "minorityprompt-renoise"
_TOKENS = "minorityprompt-tokens"


@dataclass(frozen=True)
class MinorityPrompt(Method):
    """`iterations` K of Adam at `lr`, times 1 - i `decay` at step number i; steps with t > `t_lo` T are optimised, and
    of those every `interval`-th by number; `weight` lambda of the loss's second term, `norm` its distance, `draws`
    noises averaged in it; `level` to which the estimate is noised again, `fixed` at `perturb` T; `init` the word that
    the token begins at, or `mean`; `keep` the token for steps that are not optimised; `pooled` see the card."""

    iterations: int = 10
    lr: float = 1e-2
    decay: float = 0.0
    t_lo: float = 0.9
    interval: int = 1
    level: Literal["mirrored", "code", "fixed"] = "mirrored"
    perturb: float = 0.75
    weight: float = 1.0
    norm: Literal["squared", "l2"] = "squared"
    draws: int = 1
    init: str = "mean"
    keep: bool = False
    pooled: Literal["eos", "official"] = "eos"

    replaces_condition: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"level": "mirrored", "norm": "squared", "keep": False, "pooled": "eos"},
        "official-code": {"level": "code", "norm": "l2", "keep": True, "pooled": "official", "draws": 1},
    }

    def __post_init__(self) -> None:
        if self.iterations < 0 or self.interval < 1 or self.draws < 1 or self.lr < 0:
            raise BadInputError(
                "minorityprompt: iterations and lr must not be negative, interval and draws be at least 1, not"
                f" {self.iterations}, {self.lr}, {self.interval}, {self.draws}"
            )
        if not (0.0 <= self.t_lo <= 1.0 and 0.0 <= self.perturb <= 1.0):
            raise BadInputError(f"minorityprompt: t_lo and perturb must lie in [0, 1], not {self.t_lo}, {self.perturb}")

    def check_use(self, benchmark: BenchmarkSpec, class_conditional: bool) -> None:
        """Only prompts can be optimised."""
        require_prompts("minorityprompt", benchmark)

    def active(self, index: int, schedule: Schedule) -> bool:
        """Whether a step's token is optimised; K = 0 leaves the prompts alone."""
        late = schedule.timesteps[index] > self.t_lo * len(schedule.training)
        return self.iterations > 0 and late and (schedule.steps - 1 - index) % self.interval == 0

    def condition(self, step: StepContext, labels: Condition) -> Condition:
        """The prompts with their tokens, optimised anew at this step where it is active."""
        if not isinstance(labels, TextCondition):
            return labels
        if self.active(step.index, step.schedule):
            step.memory[_TOKENS] = self._optimised(step, labels.alone())
        elif not self.keep or _TOKENS not in step.memory:
            return labels
        with torch.no_grad():
            found = self._embedded(step, labels, step.memory[_TOKENS])
        return replace(found, unconditional=labels.unconditional, guidance_scale=labels.guidance_scale)

    def objective(self, step: StepContext) -> dict[str, Tensor]:
        """The loss's two discrepancies `(B,)` under the step's prompts, which optimisation raises."""
        labels = cast(TextCondition, step.labels)
        base = cast(TextModel, step.model).encode_prompts(labels.prompts, 1.0)
        with torch.no_grad():  # with a noise that no iteration sees
            return {"prompt discrepancy": self.discrepancy(step, labels.alone(), base, self.iterations)}

    def discrepancy(self, step: StepContext, condition: TextCondition, base: TextCondition, iteration: int) -> Tensor:
        """`D(sg x0, x0') + lambda D(x0, sg x0')` `(B,)`: x0 the estimate under `condition`, x0' what the plain prompts
        make of it once noised again."""
        alpha_bar = float(step.schedule.alphas_cumprod[step.index])
        estimate = step.denoise_at(step.x_t.detach(), step.timestep, alpha_bar, condition)
        timestep = self.level_of(step)
        terms = []
        for draw in range(self.draws):
            x_s, alpha_bar_s = step.noised_at(estimate, timestep, NOISE_STREAM, iteration * self.draws + draw)
            restored = step.denoise_at(x_s, timestep, alpha_bar_s, base)
            ahead, back = self._distance(estimate.detach(), restored), self._distance(estimate, restored.detach())
            terms.append(ahead + self.weight * back)
        return torch.stack(terms).mean(dim=0)

    def level_of(self, step: StepContext) -> int:
        """Original timestep to which the estimate is noised again, within 0 .. T - 1."""
        total = step.model.train_steps
        if self.level == "mirrored":
            return step.mirrored_timestep
        skip = total // step.schedule.steps
        level = int(self.perturb * total) if self.level == "fixed" else total - (step.timestep - skip + 1)
        return min(max(level, 0), total - 1)

    def _optimised(self, step: StepContext, base: TextCondition) -> list[Tensor]:
        """The tokens `(B, width)`, one a text encoder, after this step's iterations; begun at those of the step before.

        The optimiser's own state is not carried over. Gradients are taken with respect to the tokens alone. Where that
        of an image is not finite, its tokens and their moments stay as they are for that iteration.
        """
        number = step.schedule.steps - 1 - step.index
        start = step.memory.get(_TOKENS) or self._first(step, len(base.prompts))
        rows = [[row.clone() for row in token] for token in start]  # an image each, so that Adam can pass one over
        adam = torch.optim.Adam(
            [row for token in rows for row in token], lr=max(self.lr * (1 - number * self.decay), 0.0)
        )
        for iteration in range(self.iterations):
            leaves = [torch.stack(token).requires_grad_(True) for token in rows]
            with torch.enable_grad():
                gain = self.discrepancy(step, self._embedded(step, base, leaves), base, iteration)
            step.passes["text_backward"] += 1
            step.passes["denoiser_backward"] += 1 + self.draws
            slopes = torch.autograd.grad(-gain.sum(), leaves)
            usable = step.usable(torch.cat(slopes, dim=1)).flatten().tolist()
            for token, slope in zip(rows, slopes, strict=True):
                for row, own, moves in zip(token, slope, usable, strict=True):
                    row.grad = own if moves else None
            adam.step()
        return [torch.stack(token) for token in rows]

    def _first(self, step: StepContext, batch: int) -> list[Tensor]:
        starts = cast(PromptOptimisable, step.model).token_start(self.init)
        return [start.detach().expand(batch, -1) for start in starts]

    def _embedded(self, step: StepContext, labels: TextCondition, tokens: list[Tensor]) -> TextCondition:
        step.passes["text_forward"] += 1
        return cast(PromptOptimisable, step.model).embed_tokens(labels.prompts, tokens, pooled=self.pooled)

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        difference = (a - b).flatten(1)
        if self.norm == "squared":
            return difference.square().sum(dim=1)
        return torch.linalg.vector_norm(difference, dim=1)
