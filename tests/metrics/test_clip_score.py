"""CLIPScore and PickScore on a tiny random CLIP, against cosines by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_clip import PROMPTS, pictures, tiny_images, tiny_model, tiny_tokenizer, write_model, write_tokenizer

from minoritybench.errors import BadInputError, MissingAssetError
from minoritybench.metrics import clip_score, pick_score
from minoritybench.metrics.clip_score import ClipScorer, open_clip_score
from minoritybench.metrics.pick_score import PickScorer, open_pick_score


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINORITYBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def cosines(model: Any) -> np.ndarray:
    """From the towers and projections themselves, one image and prompt at a time."""
    tokenizer, processor = tiny_tokenizer(), tiny_images()
    values = []
    for image, prompt in zip(pictures(), PROMPTS, strict=True):
        pixels = processor(images=[image], return_tensors="pt")["pixel_values"]
        ids = torch.tensor([tokenizer(prompt, truncation=True, max_length=77)["input_ids"]])
        with torch.no_grad():
            left = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)[0]
            hidden = model.text_model(input_ids=ids).last_hidden_state[0]
            right = model.text_projection(hidden[ids[0].tolist().index(53)])
        values.append(float(left @ right / left.norm() / right.norm()))
    return np.array(values)


def processor() -> Any:
    from transformers import CLIPProcessor

    return CLIPProcessor(image_processor=tiny_images(), tokenizer=tiny_tokenizer())


@pytest.mark.filterwarnings("ignore:Encountered caption longer:UserWarning")
def test_clip_score_is_the_clamped_cosine() -> None:
    model = tiny_model()
    scorer = ClipScorer("tiny", model, processor(), None)
    values, expected = scorer(pictures(), PROMPTS), 100 * cosines(model)
    assert np.ptp(expected) > 1
    assert values == pytest.approx(np.maximum(expected, 0), abs=1e-4)
    found = clip_score(fake=pictures(), prompts=PROMPTS, scorer=scorer)
    assert found.value == values.mean()
    assert found.params == {"n_fake": 5, "model": "tiny", "weights_sha256": None}


def test_pick_score_is_the_scaled_cosine_whatever_the_batch() -> None:
    model = tiny_model()
    scorer = PickScorer(model, tiny_images(), tiny_tokenizer(), None)
    values = scorer(pictures(), PROMPTS)
    assert values == pytest.approx(model.logit_scale.exp().item() * cosines(model), abs=1e-4)
    alone = [scorer(pictures()[i : i + 1], PROMPTS[i : i + 1])[0] for i in range(5)]
    assert values.tolist() == alone
    assert pick_score(fake=pictures(), prompts=PROMPTS, scorer=scorer).value == values.mean()


def place(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / "cache" / "encoders" / name
    folder.mkdir(parents=True)
    return folder


@pytest.mark.filterwarnings("ignore:Encountered caption longer:UserWarning")
def test_published_layout_loads_into_the_same_scores(tmp_path: Path) -> None:
    folder = place(tmp_path, "clip-b16")
    model = write_model(folder)
    with pytest.raises(MissingAssetError, match=r"preprocessor_config.json, tokenizer_config.json, vocab.json"):
        open_clip_score()
    tiny_images().save_pretrained(folder)
    write_tokenizer(folder)
    opened = open_clip_score()
    wanted = ClipScorer("clip-b16", model, processor(), None)
    assert opened(pictures(), PROMPTS).tolist() == wanted(pictures(), PROMPTS).tolist()
    assert len(opened.weights_sha256 or "") == 64


def test_pick_score_loads_its_two_repositories(tmp_path: Path) -> None:
    folder = place(tmp_path, "pickscore")
    model = write_model(folder)
    tiny_images().save_pretrained(folder)
    write_tokenizer(folder)
    wanted = PickScorer(model, tiny_images(), tiny_tokenizer(), None)
    assert open_pick_score()(pictures(), PROMPTS).tolist() == wanted(pictures(), PROMPTS).tolist()


def test_absent_weights_exit_4_with_file_size_source_and_place() -> None:
    for opener, repo, size in (
        (open_clip_score, "openai/clip-vit-base-patch16", "600 MB"),
        (open_pick_score, "yuvalkirstain/PickScore_v1", "3.9 GB"),
    ):
        with pytest.raises(MissingAssetError, match=rf"({size}).*{repo}.*put the file at ") as caught:
            opener()
        assert caught.value.exit_code == 4


def test_unfit_input_is_refused() -> None:
    scorer = PickScorer(tiny_model(), tiny_images(), tiny_tokenizer(), None)
    with pytest.raises(BadInputError, match="must be uint8"):
        scorer(pictures().float(), PROMPTS)
    with pytest.raises(BadInputError, match="5 images need as many prompts, not 1"):
        scorer(pictures(), PROMPTS[:1])
    with pytest.raises(BadInputError, match="unknown CLIPScore model"):
        open_clip_score("clip-h")
