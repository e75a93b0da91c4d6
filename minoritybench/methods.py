"""Turning `--method` and `--set` into a configured method."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from minoritybench.chained import Chained
from minoritybench.errors import BadInputError
from minoritybench.needs import check_needs
from minoritybench.records import BenchmarkSpec
from minoritybench.registry import is_user_file, lookup, method_names, resolve, user_code
from minoritybench.store import canonical_json

DEFAULT_PRESET = "reference"
_FINITE = ConfigDict(allow_inf_nan=False)


@dataclass(frozen=True)
class ConfiguredMethod:
    """A method instance with its full provenance."""

    name: str
    instance: Any
    params: dict[str, Any]
    preset: str

    def needs(self, class_conditional: bool) -> frozenset[str]:
        """Names of what sampling needs beside the generator (see `minoritybench.needs`): the method's
        `needs(class_conditional)`, where it depends on settings, else its `requires`."""
        asked = getattr(self.instance, "needs", None)
        names = getattr(self.instance, "requires", None) if asked is None else asked(class_conditional)
        return frozenset(names or ())


def configure(name: str, settings: Mapping[str, Any], benchmark: BenchmarkSpec) -> ConfiguredMethod:
    """The method `name` with, in rising precedence: its defaults, the benchmark's, a preset's, the benchmark's for that
    preset, `--set key=value`.

    Values given as text are converted to the fields' types. Unknown names, fields or presets and unfit values exit 2.
    Names joined by + are chained; a setting then names its method, `jepa.eta`, but for `preset`, which is everybody's.
    """
    names = method_names(name)
    if len(names) > 1:
        return _chain(names, settings, benchmark)
    cls = resolve("methods", name)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise BadInputError(f"method {name!r} is not a dataclass; its hyperparameters must be dataclass fields")
    chosen = dict(settings)
    preset = chosen.pop("preset", DEFAULT_PRESET)
    declared = benchmark.method_settings(name)
    values: dict[str, Any] = {
        **declared,
        **_preset(name, cls, preset),
        **benchmark.method_settings(name, preset),
        **chosen,
    }
    with user_code(name):
        fields = _field_types(cls)
    _check_required(name, cls, values)
    converted = {key: _converted(name, key, value, fields) for key, value in values.items()}
    with user_code(name):
        instance = cls(**converted)
    params = _params(name, instance)
    for key in _unmentioned(cls, params, declared):
        del params[key]
    method = ConfiguredMethod(name, instance, params, preset)
    for class_conditional in (False, True):
        check_needs(name, method.needs(class_conditional))
    return method


def check_known(name: str) -> None:
    """Refuse a name that is neither a registered method nor several of them joined by +, a method file's as well;
    nothing is imported."""
    if is_user_file(name):
        raise BadInputError(
            f"unknown method {name!r}: boards take registered methods only, not a file; CONTRIBUTING.md says how to"
            " give it a name"
        )
    for part in method_names(name):
        lookup("methods", part)


def _chain(names: list[str], settings: Mapping[str, Any], benchmark: BenchmarkSpec) -> ConfiguredMethod:
    """The methods of those names as one; hyperparameters are recorded as `method.name`."""
    whole = "+".join(names)
    if len(set(names)) < len(names):
        raise BadInputError(f"method {whole!r} names one twice")
    preset = settings.get("preset", DEFAULT_PRESET)
    own: dict[str, dict[str, Any]] = {name: {"preset": preset} for name in names}
    for key, value in settings.items():
        name, dot, field = key.partition(".")
        if key == "preset":
            continue
        if not dot or name not in own or field == "preset":
            raise BadInputError(
                f"--set {key}: in {whole} write {names[0]}.NAME=..., or preset=... for all of them{_meant(key, names)}"
            )
        own[name][field] = value
    parts = {name: configure(name, own[name], benchmark) for name in names}
    chained = Chained({name: part.instance for name, part in parts.items()})
    params = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.params.items()}
    return ConfiguredMethod(whole, chained, params, preset)


def _meant(key: str, names: list[str]) -> str:
    """What a setting of a chain may have been meant to be: `jepa.eta` for `eta` and for `jpea.eta`."""
    classes = {name: cls for name in names if dataclasses.is_dataclass(cls := resolve("methods", name))}
    known = [f"{name}.{field.name}" for name, cls in classes.items() for field in dataclasses.fields(cls)]
    near = [one for one in known if one.endswith(f".{key}")] or difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _preset(name: str, cls: type, preset: str) -> Mapping[str, Any]:
    """The settings of a preset of the method's own; none for the default one."""
    presets: Mapping[str, Mapping[str, Any]] = getattr(cls, "presets", None) or {}
    if preset != DEFAULT_PRESET and preset not in presets:
        reason = getattr(cls, "unpublished", {}).get(preset)
        if reason is not None:
            raise BadInputError(f"preset={preset}: {reason} for {name}; known: {', '.join([DEFAULT_PRESET, *presets])}")
        raise BadInputError(f"{name} has no preset {preset!r}; known: {', '.join([DEFAULT_PRESET, *presets])}")
    return presets.get(preset, {})


def parse_settings(pairs: tuple[str, ...], flag: str = "--set") -> tuple[tuple[str, str], ...]:
    """`("eta=2", "k=3")` to pairs; a later one of the same name wins."""
    settings: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise BadInputError(f"{flag} {pair!r}: write key=value")
        settings[key.strip()] = value.strip()
    return tuple(settings.items())


def _check_required(name: str, cls: type, values: Mapping[str, Any]) -> None:
    for field in dataclasses.fields(cls):
        absent = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if field.init and absent and field.name not in values:
            raise BadInputError(f"{name} needs a value for {field.name}: --set {field.name}=...")


def _params(name: str, instance: Any) -> dict[str, Any]:
    """Every hyperparameter as it goes into the record: finite JSON values."""
    params = dataclasses.asdict(instance)
    for key, value in params.items():
        try:
            canonical_json(value)
        except (TypeError, ValueError) as error:
            raise BadInputError(f"{name}: {key} = {value!r} cannot stand in a record: {error}") from error
    return params


def _unmentioned(cls: type, params: Mapping[str, Any], declared: Mapping[str, Any]) -> list[str]:
    """Hyperparameters that are younger than records and prepared parts which still hold, the method's `later`: left out
    where they have their defaults and the benchmark does not declare them, as they were then."""
    later: frozenset[str] = getattr(cls, "later", frozenset())
    fields = [field for field in dataclasses.fields(cls) if field.name in later and field.name not in declared]
    return [field.name for field in fields if params[field.name] == field.default]


def _field_types(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _converted(method: str, key: str, value: Any, fields: Mapping[str, Any]) -> Any:
    if key not in fields:
        near = difflib.get_close_matches(key, fields, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; it has: {', '.join(fields) or 'none'}"
        raise BadInputError(f"--set {key}: {method} has no such hyperparameter{hint}")
    try:
        return TypeAdapter(fields[key], config=_FINITE).validate_python(value)
    except ValidationError as error:
        raise BadInputError(f"--set {key}={value}: {error.errors()[0]['msg']}") from error
