"""ImageReward: published key set and size, and a forward pass written out by hand."""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_clip import LETTERS, PROMPTS, pictures
from torch import Tensor

from minoritybench.errors import BadInputError, MissingAssetError
from minoritybench.metrics import image_reward
from minoritybench.metrics.image_reward import (
    MEAN,
    STD,
    BlipSize,
    ImageRewardScorer,
    RewardModel,
    open_image_reward,
    preprocess,
    rename,
    renamed,
)

MODULE = importlib.import_module("minoritybench.metrics.image_reward")  # the package exports a function of that name
TINY = BlipSize(16, 2, 2, 32, 24, 2, 4, 60)
Shapes = dict[str, tuple[int, ...]]


def linear(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def published(size: BlipSize) -> Shapes:
    """Names and shapes of the published file, as BLIP's and BERT's own code have them."""
    v, t = size.vision_width, size.text_width
    eye, text = "blip.visual_encoder", "blip.text_encoder"
    found: Shapes = {
        f"{eye}.cls_token": (1, 1, v),
        f"{eye}.pos_embed": (1, (size.image_size // 16) ** 2 + 1, v),
        f"{eye}.patch_embed.proj.weight": (v, 3, 16, 16),
        f"{eye}.patch_embed.proj.bias": (v,),
        **norm(f"{eye}.norm", v),
        f"{text}.embeddings.word_embeddings.weight": (size.vocabulary, t),
        f"{text}.embeddings.position_embeddings.weight": (512, t),
        f"{text}.embeddings.position_ids": (1, 512),
        **norm(f"{text}.embeddings.LayerNorm", t),
        **linear("blip.vision_proj", 256, v),
        **linear("blip.text_proj", 256, t),
    }
    for i in range(size.vision_depth):
        block = f"{eye}.blocks.{i}"
        found |= norm(f"{block}.norm1", v) | norm(f"{block}.norm2", v)
        found |= linear(f"{block}.attn.qkv", 3 * v, v) | linear(f"{block}.attn.proj", v, v)
        found |= linear(f"{block}.mlp.fc1", 4 * v, v) | linear(f"{block}.mlp.fc2", v, 4 * v)
    for i in range(size.text_depth):
        layer = f"{text}.encoder.layer.{i}"
        for kind, inputs in (("attention", t), ("crossattention", v)):
            found |= linear(f"{layer}.{kind}.self.query", t, t) | linear(f"{layer}.{kind}.output.dense", t, t)
            found |= linear(f"{layer}.{kind}.self.key", t, inputs) | linear(f"{layer}.{kind}.self.value", t, inputs)
            found |= norm(f"{layer}.{kind}.output.LayerNorm", t)
        found |= linear(f"{layer}.intermediate.dense", 4 * t, t) | linear(f"{layer}.output.dense", t, 4 * t)
        found |= norm(f"{layer}.output.LayerNorm", t)
    widths = [t, 1024, 128, 64, 16, 1]
    for place, (inputs, outputs) in zip((0, 2, 4, 6, 7), itertools.pairwise(widths), strict=True):
        found |= linear(f"mlp.layers.{place}", outputs, inputs)
    return found


def random_weights(size: BlipSize) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.arange(512).view(shape)
        if key.endswith("position_ids")
        else torch.randn(shape, generator=generator) * 0.2 + ("orm" in key and key.endswith("weight"))
        for key, shape in published(size).items()
    }


def test_published_file_fits_the_full_model() -> None:
    """446.67 M parameters, two unused projections among them; on the meta device, so nothing is allocated."""
    with torch.device("meta"):
        expected = {key: tuple(value.shape) for key, value in RewardModel(BlipSize()).state_dict().items()}
    file = published(BlipSize())
    count = sum(int(np.prod(shape)) for key, shape in file.items() if not key.endswith("position_ids"))
    assert count == 446_665_953
    kept = rename({key: torch.empty(shape, device="meta") for key, shape in file.items()})
    assert {key: tuple(value.shape) for key, value in kept.items()} == expected
    assert renamed("blip.unknown") == "blip.unknown"


def by_hand(weights: dict[str, Tensor], pixels: Tensor, ids: Tensor, mask: Tensor, size: BlipSize) -> Tensor:
    """The reward from published names, in plain products: ViT with norms before, BERT with norms after each part."""

    def apply(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def layer_norm(name: str, x: Tensor, eps: float) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, seen: Tensor | None) -> Tensor:
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if seen is not None:
            logits = logits.masked_fill(seen[:, None, None, :] == 0, -torch.inf)
        return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)

    eye = "blip.visual_encoder"
    patches = F.unfold(pixels, 16, stride=16).transpose(1, 2) @ weights[f"{eye}.patch_embed.proj.weight"].flatten(1).T
    patches = patches + weights[f"{eye}.patch_embed.proj.bias"]
    x = torch.cat([weights[f"{eye}.cls_token"].expand(len(pixels), -1, -1), patches], 1) + weights[f"{eye}.pos_embed"]
    for i in range(size.vision_depth):
        block = f"{eye}.blocks.{i}"
        q, k, v = apply(f"{block}.attn.qkv", layer_norm(f"{block}.norm1", x, 1e-6)).chunk(3, dim=-1)
        x = x + apply(f"{block}.attn.proj", attend(q, k, v, size.vision_heads, None))
        x = x + apply(f"{block}.mlp.fc2", F.gelu(apply(f"{block}.mlp.fc1", layer_norm(f"{block}.norm2", x, 1e-6))))
    image = layer_norm(f"{eye}.norm", x, 1e-6)

    text = "blip.text_encoder"
    h = weights[f"{text}.embeddings.word_embeddings.weight"][ids]
    h = h + weights[f"{text}.embeddings.position_embeddings.weight"][: ids.shape[1]]
    h = layer_norm(f"{text}.embeddings.LayerNorm", h, 1e-12)
    for i in range(size.text_depth):
        layer = f"{text}.encoder.layer.{i}"
        for kind, source, seen in (("attention", None, mask), ("crossattention", image, None)):
            keys = h if source is None else source
            q, k, v = (apply(f"{layer}.{kind}.self.{n}", y) for n, y in (("query", h), ("key", keys), ("value", keys)))
            mixed = apply(f"{layer}.{kind}.output.dense", attend(q, k, v, size.text_heads, seen))
            h = layer_norm(f"{layer}.{kind}.output.LayerNorm", h + mixed, 1e-12)
        wide = F.gelu(apply(f"{layer}.intermediate.dense", h))
        h = layer_norm(f"{layer}.output.LayerNorm", h + apply(f"{layer}.output.dense", wide), 1e-12)
    z = h[:, 0]
    for place in (0, 2, 4, 6, 7):
        z = apply(f"mlp.layers.{place}", z)
    return (z.squeeze(1) - MEAN) / STD


def test_forward_equals_published_names_by_hand() -> None:
    weights = random_weights(TINY)
    weights = {key: value.double() if value.is_floating_point() else value for key, value in weights.items()}
    model = RewardModel(TINY).double()
    model.load_state_dict(rename(weights))
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ids = torch.randint(0, 60, (3, 9), generator=torch.Generator().manual_seed(2))
    mask = (torch.arange(9) < torch.tensor([[9], [4], [6]])).long()
    expected = by_hand(weights, pixels, ids, mask, TINY)
    assert expected.std() > 0.1
    torch.testing.assert_close(model(pixels, ids, mask), expected, rtol=1e-9, atol=1e-9)


def write_files(folder: Path) -> None:
    folder.mkdir(parents=True)
    torch.save(random_weights(TINY), folder / "ImageReward.pt")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS), "cat"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")


@pytest.fixture
def scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageRewardScorer:
    """The published layout at a tiny size, through the loader."""
    monkeypatch.setenv("MINORITYBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(MODULE, "BlipSize", lambda: TINY)
    write_files(tmp_path / "encoders" / "imagereward")
    return open_image_reward()


def test_batches_enter_no_bit(scorer: ImageRewardScorer) -> None:
    values = scorer(pictures(), PROMPTS)
    assert np.ptp(values) > 1e-3
    assert values.tolist() == [scorer(pictures()[i : i + 1], PROMPTS[i : i + 1])[0] for i in range(5)]
    found = image_reward(fake=pictures(), prompts=PROMPTS, scorer=scorer)
    assert found.value == values.mean()
    assert len(found.params["weights_sha256"]) == 64


def test_tokens_are_berts_with_cls_first_at_length_35(scorer: ImageRewardScorer) -> None:
    tokens = scorer._tokenizer(["A Cat"], padding="max_length", truncation=True, max_length=35)
    assert tokens["input_ids"][0] == [2, 5, 57, 3] + [0] * 31
    assert sum(tokens["attention_mask"][0]) == 4


def test_preprocessing_is_pillows_bicubic_and_a_centre_crop() -> None:
    image = pictures(1, 50)
    whole = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    picture = whole.resize((int(32 * 54 / 50), 32), Image.Resampling.BICUBIC)
    left = round((picture.width - 32) / 2)
    crop = torch.from_numpy(np.array(picture.crop((left, 0, left + 32, 32)))).permute(2, 0, 1) / 255
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    expected = (crop - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(preprocess(image, 32)[0], expected)


def test_unfit_and_absent_files_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINORITYBENCH_CACHE", str(tmp_path))
    with pytest.raises(MissingAssetError, match=r"ImageReward.pt \(1.8 GB\).*zai-org/ImageReward.*put the file at"):
        open_image_reward()
    folder = tmp_path / "encoders" / "imagereward"
    write_files(folder)
    monkeypatch.setattr(MODULE, "BlipSize", lambda: BlipSize(16, 1, 2, 32, 24, 2, 4, 60))
    with pytest.raises(BadInputError, match=r"unknown vision.encoder.layers.1"):
        open_image_reward()
