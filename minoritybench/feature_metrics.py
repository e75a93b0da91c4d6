"""The metrics on features that a benchmark can ask for, by name, and how each is planned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from minoritybench.errors import BadInputError
from minoritybench.features import Space
from minoritybench.metrics import (
    FeatureMoments,
    MetricValue,
    authenticity,
    coverage_ceiling,
    frechet_bias_floor,
    frechet_distance,
    inception_score,
    kid,
    manifold_metrics,
    rarity_score,
    rarity_valid_share,
    vendi_score,
)
from minoritybench.metrics.inception_score import CHUNK
from minoritybench.metrics.kid import SUBSETS
from minoritybench.metrics.manifold import DEFAULT_K, RARITY_K
from minoritybench.metrics.neighbours import AVGKNN_K, LOF_K, avgknn, local_outlier_factor, lof, mean_neighbour_distance
from minoritybench.records import BenchmarkSpec, MetricChoice
from minoritybench.text_metrics import TEXT_METRICS, TextChoice, text_choice

REFERENCE, TRAINING = "reference set", "training split"


class Real(Protocol):
    """The real side of a metric, as `minoritybench.features.cache.RealSide`."""

    @property
    def features(self) -> NDArray[np.float32]: ...
    @property
    def moments(self) -> FeatureMoments: ...


@dataclass(frozen=True)
class FeatureMetric:
    """`value(real, fake, k)`; `space` its own features, where it has its own; `params` what measuring adds that is
    fixed, None for what only measuring tells; `per_image(real, fake, k)` the values `(M,)` it is the mean of; `ideal`
    what a perfect generator is expected to reach."""

    direction: Literal["higher", "lower"]
    value: Callable[[Any, NDArray[Any], Any], MetricValue]
    space: Space | None = None
    k: int | None = None
    paired: bool = True
    params: Mapping[str, Any] = field(default_factory=dict)
    per_image: Callable[[Any, NDArray[Any], Any], NDArray[np.float64]] | None = None
    ideal: Callable[[Any, int, Any], float | None] | None = None
    range: tuple[float, float] = (0.0, np.inf)


def _frechet(real: Real, fake: NDArray[Any], k: None) -> MetricValue:
    return frechet_distance(real=real.moments, fake=fake)


def _frechet_floor(real: Real, n: int, k: None) -> float | None:
    return frechet_bias_floor(real.moments.covariance, real.moments.n, n)


def _fd(space: Space | None = None) -> FeatureMetric:
    return FeatureMetric("lower", _frechet, space, ideal=_frechet_floor)


class _Manifold:
    """The four metrics share their distances: computed once for a pair of sets, and the last pair's values are kept."""

    def __init__(self) -> None:
        self._of: tuple[Any, ...] = ()
        self._values: dict[str, MetricValue] = {}

    def pick(self, name: str) -> Callable[[Real, NDArray[Any], int], MetricValue]:
        """One of the four."""

        def value(real: Real, fake: NDArray[Any], k: int) -> MetricValue:
            known = len(self._of) == 3 and self._of[0]() is real.features and self._of[1]() is fake
            if not (known and self._of[2] == k):
                self._values = manifold_metrics(real=real.features, fake=fake, k=k)
                self._of = (ref(real.features), ref(fake), k)  # weak: the sets are large, and others' to keep
            return self._values[name]

        return value


_MANIFOLD = _Manifold()
MANIFOLD = ("precision", "recall", "density", "coverage")
_NEEDS_FEATURES = "FD"


def _kid(real: Real, fake: NDArray[Any], k: None) -> MetricValue:
    return kid(real=real.features, fake=fake)


FEATURE_METRICS: dict[str, FeatureMetric] = {
    _NEEDS_FEATURES: _fd(),
    "cFID": _fd(Space("inception-clean")),
    "FID": _fd(Space("inception-fid", "pool3")),
    "sFID": _fd(Space("inception-fid", "6d")),
    "sFID (6e)": _fd(Space("inception-fid", "6e")),
    "FD-DINOv2": _fd(Space("dinov2-vitl14")),
    "KID": FeatureMetric(
        "lower",
        _kid,
        Space("inception-clean"),
        params={"subsets": SUBSETS, "subset_size": None, "seed": 0},
        ideal=lambda real, n, k: 0.0,
        range=(-np.inf, np.inf),
    ),
    "inception score": FeatureMetric(
        "higher",
        lambda real, fake, k: inception_score(fake=fake),
        Space("inception-fid", "logits"),
        paired=False,
        params={"chunk": CHUNK},
        range=(1.0, np.inf),
    ),
    "precision": FeatureMetric("higher", _MANIFOLD.pick("precision"), k=DEFAULT_K, range=(0.0, 1.0)),
    "recall": FeatureMetric("higher", _MANIFOLD.pick("recall"), k=DEFAULT_K, range=(0.0, 1.0)),
    "density": FeatureMetric("higher", _MANIFOLD.pick("density"), k=DEFAULT_K, ideal=lambda real, n, k: 1.0),
    "coverage": FeatureMetric(
        "higher",
        _MANIFOLD.pick("coverage"),
        k=DEFAULT_K,
        ideal=lambda real, n, k: coverage_ceiling(len(real.features), n, k),
        range=(0.0, 1.0),
    ),
    "AvgkNN": FeatureMetric(
        "higher",
        lambda real, fake, k: avgknn(real=real.features, fake=fake, k=k),
        k=AVGKNN_K,
        per_image=lambda real, fake, k: mean_neighbour_distance(fake, k, reference=real.features),
    ),
    "LOF": FeatureMetric(
        "higher",
        lambda real, fake, k: lof(real=real.features, fake=fake, k=k),
        k=LOF_K,
        per_image=lambda real, fake, k: local_outlier_factor(fake, k, reference=real.features),
    ),
    "rarity": FeatureMetric(
        "higher", lambda real, fake, k: rarity_score(real=real.features, fake=fake, k=k), k=RARITY_K
    ),
    "rarity valid share": FeatureMetric(
        "higher",
        lambda real, fake, k: rarity_valid_share(real=real.features, fake=fake, k=k),
        k=RARITY_K,
        range=(0.0, 1.0),
    ),
    "AuthPct": FeatureMetric(
        "higher", lambda real, fake, k: authenticity(real=real.features, fake=fake), range=(0.0, 100.0)
    ),
    "Vendi": FeatureMetric(
        "higher", lambda real, fake, k: vendi_score(fake=fake), paired=False, params={"q": 1.0}, range=(1.0, np.inf)
    ),
}


@dataclass(frozen=True)
class Chosen:
    """A metric of a benchmark with everything it depends on settled; `name` is unique on the board."""

    name: str
    metric: FeatureMetric
    space: Space
    k: int | None
    against: str
    required: bool


def chosen_metric(choice: MetricChoice, benchmark: BenchmarkSpec) -> Chosen:
    """Settle one entry of a benchmark's `metrics`. Error: an unknown name or a metric without features exits 2."""
    if choice.metric not in FEATURE_METRICS:
        known = ", ".join([*FEATURE_METRICS, *TEXT_METRICS])
        raise BadInputError(f"benchmark {benchmark.name!r}: unknown metric {choice.metric!r}; known: {known}")
    if choice.model is not None:
        raise BadInputError(f"benchmark {benchmark.name!r}: {choice.metric} takes features, not a model")
    metric = FEATURE_METRICS[choice.metric]
    if choice.features is not None:
        space = Space(choice.features, choice.layer)
    elif choice.metric == _NEEDS_FEATURES:
        raise BadInputError(f"benchmark {benchmark.name!r}: FD needs its features, as in 'FD (vgg16-fc2)'")
    else:
        space = metric.space or Space(benchmark.manifold_features)
    if choice.k is not None and metric.k is None:
        raise BadInputError(f"benchmark {benchmark.name!r}: {choice.metric} has no k")
    own_k = benchmark.manifold_k if choice.metric in MANIFOLD else metric.k
    named = f"FD ({choice.features})" if choice.metric == _NEEDS_FEATURES else choice.metric
    return Chosen(choice.name or named, metric, space, choice.k or own_k, choice.against, choice.required)


def chosen_metrics(benchmark: BenchmarkSpec) -> list[Chosen]:
    """All of a benchmark's metrics on features, in the order of its board."""
    return [chosen for chosen in board_metrics(benchmark) if isinstance(chosen, Chosen)]


def board_metrics(benchmark: BenchmarkSpec) -> list[Chosen | TextChoice]:
    """All of a benchmark's metrics, on features and of image and prompt, in the order of its board."""
    found = [
        text_choice(choice, benchmark) if choice.metric in TEXT_METRICS else chosen_metric(choice, benchmark)
        for choice in benchmark.metrics
    ]
    names = [chosen.name for chosen in found]
    for name in names:
        if names.count(name) > 1:
            raise BadInputError(f"benchmark {benchmark.name!r}: metric {name!r} stands twice; give one a name")
    return found
