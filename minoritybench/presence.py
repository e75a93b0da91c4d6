"""What a benchmark is made of, and whether each part is on this machine: opened, or only looked for.

Looking for a part opens no weights and downloads nothing; where something is absent, both say the same line.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from minoritybench.records import BenchmarkSpec
from minoritybench.registry import entries, is_user_file, lookup, resolve

_THIS = "minoritybench"
_FINDERS = {
    f"{_THIS}.encoders.embedded:DigitsEncoder": f"{_THIS}.embedded.weights:shipped_file",
    f"{_THIS}.encoders.vision:load_dinov2": f"{_THIS}.encoders.vision:find_weights",
    f"{_THIS}.encoders.vision:load_ijepa": f"{_THIS}.encoders.vision:find_weights",
    f"{_THIS}.encoders.vision:load_metaclip": f"{_THIS}.encoders.vision:find_weights",
    f"{_THIS}.diffusion.embedded:load_digits_ddpm": f"{_THIS}.embedded.weights:shipped_file",
    f"{_THIS}.diffusion.latent.loading:load_latent": f"{_THIS}.diffusion.latent.loading:find_files",
    f"{_THIS}.diffusion.adm.model:load_adm": f"{_THIS}.diffusion.adm.model:find_weights",
    f"{_THIS}.diffusion.adm.cascade:load_cascade": f"{_THIS}.diffusion.adm.cascade:find_both",
    f"{_THIS}.diffusion.diffusers_pixel:load_diffusers_pixel": f"{_THIS}.diffusion.diffusers_pixel:find_files",
    f"{_THIS}.features.digits:ClassifierFeatures": f"{_THIS}.embedded.weights:shipped_file",
    f"{_THIS}.features.digits:PixelPca": f"{_THIS}.embedded.weights:shipped_file",
    f"{_THIS}.features.inception:load_inception_clean": f"{_THIS}.features.weights:locate",
    f"{_THIS}.features.inception:load_inception_fid": f"{_THIS}.features.weights:locate",
    f"{_THIS}.features.vgg:load_vgg16": f"{_THIS}.features.weights:locate",
}
"""The function that looks for the files of a loader, where it has one: called with the registered name."""
_SHARED = f"{_THIS}.features.vision:load_vision"
"""Features that are an encoder's under the same name lie where the encoder does."""


@dataclass(frozen=True)
class Part:
    """One thing a benchmark needs: its `role` there and its name. `open(device)` loads it, `find()` looks for its
    files; what is absent raises `MissingAssetError` either way."""

    role: str
    name: str
    open: Callable[[str], object]
    find: Callable[[], object]


def benchmark_parts(
    benchmark: BenchmarkSpec,
    *,
    guide: str | None = None,
    judges: Sequence[str] = (),
    reference: str | None = None,
    prompts: str | None = None,
) -> list[Part]:
    """All that measuring on a benchmark needs, the generator and what methods alone need apart: reference set, images,
    prompts, features, models of image and prompt, guide and judges; the benchmark's own where none is given."""
    from minoritybench.measures import extractor_names
    from minoritybench.text_metrics import text_choices

    parts = [_reference(reference or benchmark.reference_set)]
    if reference in (None, benchmark.reference_set):
        parts.append(_images(benchmark))
    if benchmark.text is not None:
        parts.append(_prompts(prompts or benchmark.text.prompts))
    parts += [_part("features", "features", name, _open_extractor) for name in extractor_names(benchmark)]
    parts += [Part(text.metric, text.model, text.open, text.find) for text in text_choices(benchmark)]
    guide = guide or benchmark.guide
    parts.append(_part("guide", "encoders", guide, _open_encoder))
    others = dict.fromkeys(name for name in (*benchmark.judges, *judges) if name != guide)
    return [*parts, *(_part("judge", "encoders", name, _open_encoder) for name in others)]


def find(kind: str, name: str) -> None:
    """Look for the files of a registered encoder, generator or feature extractor. One whose loader is unknown here (a
    third party's, a family such as `timm:`) is opened, for only that tells. Errors: absent files exit 4."""
    finder = finder_of(kind, name)
    if finder is None:
        resolve(kind, name)(name)
    else:
        finder(name)


def finder_of(kind: str, name: str) -> Callable[[str], Any] | None:
    """What looks for a name's files without opening them, None where nothing does."""
    if is_user_file(name):
        return None
    target = lookup(kind, name).target
    if target == _SHARED and name in entries("encoders"):
        target = lookup("encoders", name).target
    if target not in _FINDERS:
        return None
    module, _, attribute = _FINDERS[target].partition(":")
    found: Callable[[str], Any] = getattr(importlib.import_module(module), attribute)
    return found


def _part(role: str, kind: str, name: str, opener: Callable[[str, str], object]) -> Part:
    return Part(role, name, partial(opener, name), partial(find, kind, name))


def _reference(name: str) -> Part:
    from minoritybench.references import load_reference_set

    def open_with_images(device: str) -> object:
        return load_reference_set(name).source()

    return Part("reference set", name, open_with_images, partial(load_reference_set, name))


def _images(benchmark: BenchmarkSpec) -> Part:
    from minoritybench.data.catalogue import find_dataset, known
    from minoritybench.data.source import SourceSpec, open_source

    def open_images() -> object:
        return open_source(SourceSpec(benchmark.dataset, None, benchmark.split))

    def find_images() -> object:
        return find_dataset(benchmark.dataset) if known(benchmark.dataset) else open_images()

    return Part("images", benchmark.dataset, lambda device: open_images(), find_images)


def _prompts(name: str) -> Part:
    from minoritybench.data.prompts import load_prompts

    return Part("prompts", name, lambda device: load_prompts(name), partial(load_prompts, name))


def _open_extractor(name: str, device: str) -> object:
    from minoritybench.features import load_extractor

    return load_extractor(name, device)


def _open_encoder(name: str, device: str) -> object:
    from minoritybench.encoders import load_encoder

    return load_encoder(name, device=device)
