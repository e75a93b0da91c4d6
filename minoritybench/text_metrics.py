"""The metrics of image and prompt that a text-to-image benchmark can ask for, by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from minoritybench.errors import BadInputError
from minoritybench.metrics.clip_score import embedded_digest, find_clip, open_clip_score
from minoritybench.metrics.image_reward import NAME as REWARD_MODEL
from minoritybench.metrics.image_reward import find_image_reward, open_image_reward
from minoritybench.metrics.pick_score import NAME as PICK_MODEL
from minoritybench.metrics.pick_score import find_pick_score, open_pick_score
from minoritybench.metrics.text_image import TextImageScorer
from minoritybench.records import BenchmarkSpec, MetricChoice


@dataclass(frozen=True)
class TextMetric:
    """`open(model, device)` loads a scorer of the `model`, the metric's own by default, `find(model)` only looks for
    its files; `models` is false where there is no other; `digest(model)` gives what is known of its weights without
    opening it. Higher is better."""

    open: Callable[[str, str], TextImageScorer]
    find: Callable[[str], object]
    model: str
    models: bool = False
    digest: Callable[[str], str | None] = lambda model: None
    range: tuple[float, float] = (-math.inf, math.inf)


TEXT_METRICS: dict[str, TextMetric] = {
    "CLIPScore": TextMetric(open_clip_score, find_clip, "clip-b16", True, embedded_digest, (0.0, 100.0)),
    "PickScore": TextMetric(lambda model, device: open_pick_score(device), lambda model: find_pick_score(), PICK_MODEL),
    "ImageReward": TextMetric(
        lambda model, device: open_image_reward(device), lambda model: find_image_reward(), REWARD_MODEL
    ),
}


@dataclass(frozen=True)
class TextChoice:
    """A metric of a benchmark with its model settled; `name` is that of its column."""

    name: str
    metric: str
    model: str
    required: bool = True

    @property
    def key(self) -> str:
        """Where its values stand in a measurement file and in per_image.parquet."""
        return f"text/{self.metric}/{self.model}"

    @property
    def range(self) -> tuple[float, float]:
        """The values it can take."""
        return TEXT_METRICS[self.metric].range

    def open(self, device: str) -> TextImageScorer:
        """The scorer. Errors: an unknown model exits 2, absent weights exit 4."""
        return TEXT_METRICS[self.metric].open(self.model, device)

    def find(self) -> None:
        """Look for its files without opening them. Errors: as `open`."""
        TEXT_METRICS[self.metric].find(self.model)

    def known_digest(self) -> str | None:
        """SHA-256 of weights that are shipped with the package, else None."""
        return TEXT_METRICS[self.metric].digest(self.model)


def text_choice(choice: MetricChoice, benchmark: BenchmarkSpec) -> TextChoice:
    """Settle one entry of a benchmark's `metrics`. Error: what such a metric does not take exits 2."""
    metric, where = TEXT_METRICS[choice.metric], f"benchmark {benchmark.name!r}: {choice.metric}"
    if benchmark.text is None:
        raise BadInputError(f"{where} compares images with prompts, and the benchmark has none")
    if (choice.features, choice.layer, choice.k, choice.against) != (None, None, None, "reference set"):
        raise BadInputError(f"{where} takes a model, not features, layer, k or against")
    if choice.model not in (None, metric.model) and not metric.models:
        raise BadInputError(f"{where} has one model, {metric.model!r}, not {choice.model!r}")
    return TextChoice(choice.name or choice.metric, choice.metric, choice.model or metric.model, choice.required)


def text_choices(benchmark: BenchmarkSpec) -> list[TextChoice]:
    """All of a benchmark's metrics of image and prompt, in the order of its board."""
    return [text_choice(choice, benchmark) for choice in benchmark.metrics if choice.metric in TEXT_METRICS]
