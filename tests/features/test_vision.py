"""Encoders as feature spaces: the network of the encoder, after another resize."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from minoritybench.encoders import load_encoder
from minoritybench.errors import BadInputError, MissingAssetError
from minoritybench.features import Space, describe, extractor_facts, load_extractor
from minoritybench.registry import entries

NAME = "timm:test_vit"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    monkeypatch.setenv("MINORITYBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    torch.manual_seed(0)
    model = timm.create_model("test_vit", pretrained=False)
    place = tmp_path / "encoders" / "timm-test_vit"
    place.mkdir(parents=True)
    save_file(model.state_dict(), place / "model.safetensors")


def test_a_picture_is_squashed_by_pillow_and_embedded_by_the_encoders_network() -> None:
    extractor, encoder = load_extractor(NAME), load_encoder(NAME)
    side = encoder.input_size  # type: ignore[attr-defined]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 50, 40, 3), dtype=np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    resized = [np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC)) for one in pixels]
    ready = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 255
    expected = encoder(encoder.prepare(ready)).numpy()
    assert np.allclose(extractor(images), expected, atol=1e-5)
    assert not np.allclose(extractor(images), encoder(encoder.prepare(images)).numpy(), atol=1e-3)
    facts = extractor_facts(extractor)
    assert facts["preprocess"] == f"pil-bicubic-{side}"
    assert facts["weights_sha256"] == encoder.weights_sha256  # type: ignore[attr-defined]


def test_a_layer_that_is_not_there_is_one_line() -> None:
    image = torch.zeros(1, 3, 8, 8)
    with pytest.raises(BadInputError, match="has the outputs embedding, not 'pool3'"):
        describe(load_extractor(NAME), [image], [Space(NAME, "pool3")])
    with pytest.raises(BadInputError, match="have one output, not a layer '6d'"):
        describe(load_extractor("digits-pca20"), [image], [Space("digits-pca20", "6d")])


def test_clip_and_dinov2_spaces_ask_for_the_weights_of_their_encoders() -> None:
    for name, repo in (("clip-b16", "vit_base_patch16_clip_224.openai"), ("dinov2-vits14", "dinov2-small")):
        with pytest.raises(MissingAssetError, match=repo):
            load_extractor(name)
    assert {"dinov2-vitl14", "metaclip-b16", "clip:*", "timm:*"} <= set(entries("features"))
