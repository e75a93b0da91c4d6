"""The shipped text-to-image files: what the card says of them, and that the libraries they are made for open them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minoritybench import jepa_score, load_encoder
from minoritybench.embedded.captions import digit_of
from minoritybench.embedded.card_figures import Digits, accuracy
from minoritybench.embedded.data import load_doubled_split
from minoritybench.embedded.recipes_common import to_network
from minoritybench.embedded.t2i.card import render, shipped_files
from minoritybench.embedded.t2i.figures import clip_figures, digit_agreement, load_classifier, sample
from minoritybench.embedded.t2i.folders import clip_folder, open_pipeline, pipeline_folder
from minoritybench.embedded.t2i.networks import SCHEDULER
from minoritybench.embedded.t2i.prompts import PROMPTS, draw_prompts
from minoritybench.embedded.weights import T2I_BUILDERS, WEIGHTS_VARIABLE, shipped_digest, t2i_dir
from minoritybench.errors import MissingAssetError
from minoritybench.features.digits import ClassifierFeatures
from minoritybench.microbatch import torch_threads
from minoritybench.references import load_reference_set
from minoritybench.store import read_json

ENCODER_DIMS = {"digits16-jepa": 16, "digits16-jepa-b": 16, "digits16-ijepa": 96}


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return open_pipeline(pipeline_folder())


@pytest.fixture(scope="module")
def test_split() -> Digits:
    return Digits.of(load_doubled_split("test"))


def test_the_files_are_small_and_those_of_the_card() -> None:
    card = read_json(t2i_dir() / "card.json")
    assert card["files"] == shipped_files(t2i_dir())
    assert sum(facts["bytes"] for facts in card["files"].values()) <= 8_000_000
    assert sum(facts["cpu_seconds"] for facts in card["models"].values()) <= 20 * 60
    assert (t2i_dir() / "CARD.md").read_text(encoding="utf-8") == render(card)


def test_the_pipeline_is_built_like_stable_diffusion(pipeline: Any) -> None:
    assert type(pipeline).__name__ == "StableDiffusionPipeline"
    assert {key: pipeline.scheduler.config[key] for key in SCHEDULER} == SCHEDULER
    assert pipeline.scheduler.config.prediction_type == "epsilon"
    assert pipeline.vae_scale_factor == 2
    assert pipeline.unet.config.sample_size == 8
    assert pipeline.text_encoder.config.hidden_size == pipeline.unet.config.cross_attention_dim == 64
    assert {p.dtype for p in [*pipeline.unet.parameters(), *pipeline.text_encoder.parameters()]} == {torch.float32}


def test_prompts_change_the_image_and_seeds_repeat_it(pipeline: Any) -> None:
    prompts = ["a bold slanted seven", "a bold slanted seven", "a thin zero"]
    with torch_threads(1):
        first, again = sample(pipeline, prompts, 2.0, steps=4), sample(pipeline, prompts, 2.0, steps=4)
    np.testing.assert_array_equal(first, again)
    assert first.shape == (3, 16, 16)
    assert (first[0] != first[1]).any()  # another seed


def test_the_autoencoder_restores_test_digits(pipeline: Any, test_split: Digits) -> None:
    with torch.no_grad():
        latents = pipeline.vae.encode(test_split.x[:32].expand(-1, 3, -1, -1)).latent_dist.mean
        restored = pipeline.vae.decode(latents).sample
    assert (restored - test_split.x[:32]).square().mean() < 0.01 * test_split.x.var()
    assert (latents * pipeline.vae.config.scaling_factor).std() == pytest.approx(1, abs=0.15)


@pytest.mark.slow
def test_an_independent_classifier_sees_the_prompted_digit(pipeline: Any) -> None:
    prompts = draw_prompts()[:50]
    with torch_threads(1):
        images = to_network(torch.from_numpy(sample(pipeline, prompts, 2.0)))
    assert digit_agreement(load_classifier(t2i_dir()), images, prompts)["agreement"] >= 0.85


def test_clip_finds_the_captions_of_test_images() -> None:
    figures = clip_figures(t2i_dir(), load_doubled_split("test"))
    assert figures["digit_accuracy"] >= 0.93
    assert all(value >= 0.65 for value in figures["attribute_accuracy"].values())  # chance is 1/3
    assert figures["mean_cosine_true"] > figures["mean_cosine_all"] + 0.5


@pytest.mark.parametrize("name", ENCODER_DIMS)
def test_encoders_open_by_name_and_score(name: str, test_split: Digits) -> None:
    encoder: Any = load_encoder(name)
    assert (encoder.input_size, encoder.preprocess, encoder.dim) == (16, "antialias-16", ENCODER_DIMS[name])
    images = test_split.rgb[:8]
    assert encoder.prepare(images).shape == (8, 1, 16, 16)
    exact = jepa_score(encoder, images)
    assert exact.isfinite().all()
    torch.testing.assert_close(
        jepa_score(_Generic(encoder), images, mode="reference"),
        jepa_score(encoder, images, mode="reference"),
        atol=2e-3,
        rtol=0,
    )


class _Generic:
    """An encoder without its hand-written derivatives."""

    def __init__(self, encoder: Any) -> None:
        self.prepare, self._encoder = encoder.prepare, encoder

    def __call__(self, prepared: torch.Tensor) -> torch.Tensor:
        z: torch.Tensor = self._encoder(prepared)
        return z


def test_the_guide_scores_like_a_density_and_agrees_with_its_other_seed() -> None:
    figures = read_json(t2i_dir() / "card.json")["figures"]
    assert figures["digits16-jepa"]["knn_spearman_test"] > 0.3
    assert figures["digits16-jepa-b"]["knn_spearman_test"] > 0.3
    assert figures["digits16-jepa"]["other_seed"]["spearman"] > 0.7


def test_the_classifier_reads_test_digits(test_split: Digits) -> None:
    assert accuracy(load_classifier(t2i_dir()), test_split) >= 0.95
    assert ClassifierFeatures("digits16-classifier")(test_split.rgb[:5]).shape == (5, 64)


def test_the_prompts_are_drawn_from_the_training_captions() -> None:
    from importlib.resources import files

    text = (files("minoritybench.benchmarks") / "prompts" / "digits-t2i.txt").read_text("utf-8")
    prompts = draw_prompts()
    assert text == "\n".join(prompts) + "\n"
    assert len(prompts) == PROMPTS == 500
    assert {digit_of(prompt) for prompt in prompts} == set(range(10))


def test_missing_files_say_how_to_make_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    for open_it in (pipeline_folder, clip_folder, lambda: load_encoder("digits16-jepa")):
        with pytest.raises(MissingAssetError, match=r"embedded\.t2i\.train"):
            open_it()


def test_the_builders_are_the_shipped_weights() -> None:
    assert {path.stem for path in (t2i_dir() / "weights").iterdir()} == set(T2I_BUILDERS)


def test_the_reference_set_is_what_the_guide_ranks_lowest() -> None:
    shipped = load_reference_set("digits16")
    assert shipped.recipe.encoder["name"] == "digits16-jepa"
    assert shipped.recipe.encoder["weights_sha256"] == shipped_digest("digits16-jepa")
    assert (shipped.recipe.n, shipped.recipe.dataset["name"]) == (375, "digits16")
    members = shipped.members.iloc[:8]
    images = torch.stack([torch.from_numpy(image.pixels) for image in shipped.images()[:8]])
    scores = jepa_score(load_encoder("digits16-jepa"), images.permute(0, 3, 1, 2).float() / 255)
    np.testing.assert_allclose(scores.numpy(), members["score_deflated"], atol=1e-3)
