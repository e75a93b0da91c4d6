"""Benchmark files: every name in them is known, and every method can be configured for them."""

from __future__ import annotations

import pytest

from minoritybench.measures import extractor_names
from minoritybench.methods import configure
from minoritybench.records import load_benchmark, load_protocol
from minoritybench.references import is_recipe_only, load_reference_set, reference_folder
from minoritybench.registry import entries, lookup

BENCHMARKS = sorted(entries("benchmarks"))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_names_in_a_benchmark_are_known(name: str) -> None:
    spec = load_benchmark(name)
    assert spec.name == name
    for kind, names in {
        "datasets": [spec.dataset],
        "generators": [spec.generator],
        "encoders": [spec.guide, *spec.judges],
        "reference-sets": [spec.reference_set],
        "methods": list(spec.methods),
        "features": extractor_names(spec),
    }.items():
        for entry in names:
            lookup(kind, entry)
    assert spec.guide not in spec.judges
    assert spec.manifold_features in extractor_names(spec)
    folder = reference_folder(spec.reference_set)
    if is_recipe_only(folder):
        protocol = load_protocol(folder / "recipe.toml")
        assert (protocol.dataset, protocol.split, protocol.encoder) == (spec.dataset, spec.split, spec.guide)
    else:
        recipe = load_reference_set(spec.reference_set).recipe
        assert (recipe.dataset["name"], recipe.encoder["name"]) == (spec.dataset, spec.guide)


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize("method", sorted(entries("methods")))
def test_methods_are_configured_as_the_benchmark_says(name: str, method: str) -> None:
    spec = load_benchmark(name)
    params = configure(method, {}, spec).params
    assert spec.method_settings(method).items() <= params.items()
    for preset in spec.methods.get(method, {}).get("presets", {}):
        again = configure(method, {"preset": preset}, spec).params
        assert spec.method_settings(method, preset).items() <= again.items()


def test_published_settings() -> None:
    """Of the papers and their code, which the files must not drift from."""
    celeba, imagenet = load_benchmark("celeba64"), load_benchmark("imagenet256")
    for spec, boost, self_guided in (
        (celeba, {"gamma": 4.0, "skip": 3}, {"w": 0.4, "interval": 5}),
        (imagenet, {"gamma": 2.5, "skip": 3}, {"w": 0.2, "interval": 2}),
    ):
        assert (spec.steps, spec.n, spec.keep) == (250, 30000, "10000")
        assert configure("bns", {}, spec).params == boost
        assert self_guided.items() <= configure("sgms", {}, spec).params.items()
        guided = configure("jepa", {}, spec).params
        assert [guided[key] for key in ("eta", "tau", "interval", "k", "p", "q")] == [2.0, 0.8, 3, 3, 2, 2]


@pytest.mark.parametrize(
    ("name", "steps", "scale", "spacing", "eta", "interval"),
    [("sd15-coco", 50, 7.5, "leading", 0.06, 3), ("sdxl-lightning-coco", 4, 1.0, "trailing", 0.5, 1)],
)
def test_published_text_to_image_settings(
    name: str, steps: int, scale: float, spacing: str, eta: float, interval: int
) -> None:
    spec = load_benchmark(name)
    assert spec.text is not None
    assert (spec.n, spec.steps, spec.text.prompts) == (5000, steps, "coco")
    assert (spec.text.guidance_scale, spec.text.spacing, spec.text.ending) == (scale, spacing, "x0")
    guided = configure("jepa", {}, spec).params
    assert [guided[key] for key in ("eta", "tau", "interval", "k", "p", "q")] == [eta, 0.8, interval, 9, 2, 2]
    assert guided["schedule"] == "constant"
