"""Schemas of what comes in (benchmark TOML) and goes out (reference sets, run records)."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from minoritybench.errors import BadInputError
from minoritybench.registry import lookup
from minoritybench.store import canonical_json, digest_of, read_json

SCHEMA_VERSION: Final = 1

Model = TypeVar("Model", bound=BaseModel)


_DEEPEST = 16


def _json_value(value: dict[str, Any]) -> dict[str, Any]:
    """Free-form fields must be JSON that has a digest: finite numbers, encodable text, no bottomless nesting."""
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        level = [inner for outer in level if isinstance(outer, dict | list) for inner in _children(outer)]
    if level:
        raise ValueError(f"nested more than {_DEEPEST} levels deep")
    canonical_json(value).encode()
    return value


def _children(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value


JsonDict = Annotated[dict[str, Any], AfterValidator(_json_value)]


Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Tolerance(_Strict):
    """How far a re-run elsewhere may be from the recorded value.

    `score_nats` is for means over images, in their own unit (JEPA-SCORE, CLIPScore, PickScore, ImageReward), `fraction`
    for precision, recall, density, coverage and shares, 100 times it for AuthPct; others: `fd_relative` of the value.
    """

    fd_relative: float
    score_nats: float
    fraction: float


class MetricChoice(_Strict):
    """A metric on features that a benchmark shows: its preset name, or the name alone in its place.

    `features` and `layer` replace the preset's own features, `k` its neighbours; `against` says which real images it is
    measured against. `model` replaces the network of a metric of image and prompt, which takes none of these. One that
    is not `required` may be absent from records that were filed before it was added.
    """

    metric: str
    name: str | None = None
    features: str | None = None
    layer: str | None = None
    k: int | None = None
    model: str | None = None
    against: Literal["reference set", "training split"] = "reference set"
    required: bool = True

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        """`"cFID"` stands for `{metric = "cFID"}` and `"FD (x)"` for `{metric = "FD", features = "x"}`."""
        if not isinstance(value, str):
            return value
        if value.startswith("FD (") and value.endswith(")"):
            return {"metric": "FD", "features": value[4:-1]}
        return {"metric": value}


class TextSpec(_Strict):
    """How a text-to-image benchmark samples.

    `prompts` names its prompt file (see `minoritybench.data.prompts`); image i of a seed is drawn for prompt i.
    `guidance_scale` of classifier-free guidance, 0 or 1 for none. `spacing` of the timesteps; `ending` at the denoised
    estimate (`x0`) or, as diffusers' pipelines end, at the model's `final_alpha_cumprod`; `start` from unit noise or
    from noise of the largest Euler sigma; `alpha_shift` 1 takes the noise level of the timestep before, as the
    published code does.
    """

    prompts: str
    guidance_scale: float = Field(ge=0.0)
    spacing: Literal["leading", "trailing"] = "leading"
    ending: Literal["x0", "diffusers"] = "x0"
    start: Literal["unit", "euler"] = "unit"
    alpha_shift: int = Field(default=0, ge=0, le=1)


class BenchmarkSpec(_Strict):
    """One benchmark, read from one TOML file in `minoritybench/benchmarks/`."""

    name: str
    title: str
    dataset: str
    split: str
    generator: str
    image_size: int
    guide: str
    judges: list[str]
    metrics: list[MetricChoice]
    manifold_features: str
    manifold_k: int
    reference_set: str
    keep: str
    n: int
    seeds: list[int]
    steps: int
    tolerance: Tolerance
    notes: list[str] = []
    text: TextSpec | None = None
    methods: dict[str, dict[str, Any]] = {}

    @field_validator("methods")
    @classmethod
    def _preset_tables(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, settings in value.items():
            presets = settings.get("presets", {})
            if not (isinstance(presets, dict) and all(isinstance(table, dict) for table in presets.values())):
                raise ValueError(f"{name}.presets must hold one table a preset")
        return value

    def method_settings(self, method: str, preset: str | None = None) -> dict[str, Any]:
        """What `[methods.NAME]` declares, or what `[methods.NAME.presets.PRESET]` has a preset take here instead of its
        own."""
        declared = self.methods.get(method, {})
        if preset is not None:
            return dict(declared.get("presets", {}).get(preset, {}))
        return {key: value for key, value in declared.items() if key != "presets"}


class KeepRule(_Strict):
    """How many of the lowest-scoring images a reference set keeps: `request` as given, `n` as it came out."""

    request: str
    per_class: int | None = None
    n: int


class ReferenceSet(_Strict):
    """Recipe and digest of a world-minority reference set; the members stand beside it in members.csv.

    `sha256` is the digest of the ordered (id, content sha256) pairs of the members; `threshold` the deflated score of
    its last member: an image scoring at or below it is as rare as the set. None where the set was not ranked by exact
    scores.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    sha256: str
    n: int
    rank_by: Literal["jepa", "avgknn", "lof"]
    keep: KeepRule
    threshold: float | None
    dataset: dict[str, Any]
    encoder: dict[str, Any]
    estimator: dict[str, Any]
    statistics: dict[str, Any]
    conversions: dict[str, int]
    failures: int
    minoritybench: str


class ReferenceProtocol(_Strict):
    """A reference set that is not built yet: what it will hold and the command that builds it into `out`."""

    name: str
    status: Literal["recipe only, not measured"]
    dataset: str
    split: str
    encoder: str
    keep: int
    protocol: str
    note: str
    out: str
    command: str


class MetricRecord(_Strict):
    """A metric of a run: `value` is the mean over seeds, the interval a 95 % t-interval over them.

    `id` is the digest of name and params; values whose ids differ do not compare. A single sample set has another
    interval or none: `interval` names its method. `ideal` is what a perfect generator is expected to reach at these
    numbers of images, where that is known; `details` what else measuring found. A record without one of the three does
    not mention it.
    """

    id: str
    name: str
    value: float
    ci_low: float | None
    ci_high: float | None
    direction: Literal["higher", "lower"]
    params: JsonDict
    per_seed: dict[str, float]
    interval: str | None = None
    ideal: float | None = None
    details: dict[str, float] = {}

    @model_serializer(mode="wrap")
    def _less_absent(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = dump(self)
        added = ("interval", "ideal", "details")
        return {key: value for key, value in fields.items() if key not in added or value not in (None, {})}


class ToolRecord(_Strict):
    """Which minoritybench made a record; `commit` and `dirty` are None outside a git checkout."""

    version: str
    commit: str | None
    dirty: bool | None


class MethodRecord(_Strict):
    """The method, every hyperparameter it ran with, and the digests of what it needed beside generator and guide (None
    for what has no weights); a record of a method without such needs does not mention them."""

    name: str
    params: JsonDict
    preset: str
    needs: dict[str, str | None] = {}

    @model_serializer(mode="wrap")
    def _less_no_needs(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = dump(self)
        return fields if self.needs else {key: value for key, value in fields.items() if key != "needs"}


class GeneratorRecord(_Strict):
    """The generator's identity."""

    name: str
    weights_sha256: str | None
    dtype: str


class EncoderRecord(_Strict):
    """The encoder that guides and scores as such, the held-out `judges`, and the weights of each of them."""

    guide: str
    judges: list[str]
    weights_sha256: dict[str, str | None]


class SamplingRecord(_Strict):
    """`n` samples a seed. `text` says how a text-to-image chain ran, with the digest of its prompts; a record without
    prompts does not mention it."""

    n: Count
    steps: Count
    seeds: list[Count]
    spacing: str
    class_conditional: bool
    text: JsonDict = {}

    @model_serializer(mode="wrap")
    def _less_no_text(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = dump(self)
        return fields if self.text else {key: value for key, value in fields.items() if key != "text"}


class ReferenceRecord(_Strict):
    """The reference set measured against."""

    name: str
    sha256: str
    n: Count


class Environment(_Strict):
    """Where it ran."""

    python: str
    torch: str
    device: str
    packages: dict[str, str]


class Cost(_Strict):
    """`seconds` of sampling in all, `seconds_per_sample`; `nfe` denoiser forwards a sample; `encoder_passes` forward
    and backward products of the guiding encoder a sample; `passes` by kind."""

    seconds: float
    seconds_per_sample: float
    peak_memory_bytes: Count
    nfe: Count
    encoder_passes: Count
    passes: dict[str, Count]


class Artifact(_Strict):
    """A file that belongs to a record and stands beside it."""

    path: str
    sha256: str
    bytes: Count


class RunRecord(_Strict):
    """One measured run: everything a leaderboard row says, and enough to make it again."""

    schema_version: Literal[1] = SCHEMA_VERSION
    id: str = ""
    created: str
    status: Literal["complete", "incomplete"]
    command: str
    minoritybench: ToolRecord
    benchmark: str
    method: MethodRecord
    generator: GeneratorRecord
    encoder: EncoderRecord
    sampling: SamplingRecord
    reference_set: ReferenceRecord
    metrics: list[MetricRecord]
    failures: list[dict[str, str]]
    environment: Environment
    cost: Cost
    artifacts: list[Artifact]
    tolerance: Tolerance
    supersedes: str | None = None
    warnings: list[str] = Field(default_factory=list)

    def content_id(self) -> str:
        """Digest of the canonical JSON less `id` and `created`."""
        return digest_of(self.model_dump(mode="json", exclude={"id", "created"}))

    def metric(self, name: str) -> MetricRecord | None:
        """The metric of that name, if the record has it."""
        return next((metric for metric in self.metrics if metric.name == name), None)


def metric_id(name: str, params: dict[str, Any]) -> str:
    """Short digest of what a metric is: equal ids, comparable values."""
    return digest_of({"name": name, "params": params})[:16]


def load_record(path: Path) -> RunRecord:
    """Read and validate a record file; one line naming file and field where it does not fit."""
    return validated(RunRecord, read_json(path), str(path))


def load_reference_recipe(path: Path) -> ReferenceSet:
    """Read and validate a reference_set.json."""
    return validated(ReferenceSet, read_json(path), str(path))


def load_protocol(path: Path) -> ReferenceProtocol:
    """Read and validate the recipe.toml of a reference set that is not built yet."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path} is not readable TOML: {error}") from error
    return validated(ReferenceProtocol, document, str(path))


def load_benchmark(name: str) -> BenchmarkSpec:
    """The spec of a registered benchmark."""
    package, _, file = lookup("benchmarks", name).target.partition(":")
    text = files(package).joinpath(file).read_text("utf-8")
    return validated(BenchmarkSpec, tomllib.loads(text), file)


def validated(model: type[Model], data: Any, where: str) -> Model:
    """`data` as a model; one line naming `where` and the field where it does not fit (exit 2)."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "document"
        if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
            raise BadInputError(f"{where}: there is no {field!r}; known: {', '.join(model.model_fields)}") from error
        raise BadInputError(f"{where}: {field}: {first['msg']}") from error
