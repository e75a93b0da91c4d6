"""A CLIP of the published architecture and key names, a few thousand random weights, and its processor's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def tiny_config() -> Any:
    """CLIP's two towers, eight pixels a patch of a 16 px image."""
    from transformers import CLIPConfig

    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    specials = {"bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    return CLIPConfig(
        text_config={**shape, "vocab_size": 54, "max_position_embeddings": 77, **specials},
        vision_config={**shape, "image_size": 16, "patch_size": 8},
        projection_dim=12,
    )


def tiny_tokenizer() -> Any:
    """Letters, alone and at the end of a word, no merges."""
    from transformers import CLIPTokenizer

    names = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={name: number for number, name in enumerate(names)}, merges=[])


def tiny_images() -> Any:
    """CLIP's preprocessing at 16 px."""
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


def tiny_model() -> Any:
    """Seeded random weights, in evaluation mode."""
    from transformers import CLIPModel

    torch.manual_seed(0)
    model = CLIPModel(tiny_config()).eval()
    for parameter in model.parameters():  # the usual initial weights are so small that all cosines are alike
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def write_tokenizer(folder: Path) -> None:
    """The tokenizer's files under their published names."""
    import json

    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(tokenizer.get_vocab()))
    (folder / "merges.txt").write_text("#version: 0.2\n")


def write_model(folder: Path) -> Any:
    """config.json and model.safetensors, with the row numbers that old files hold."""
    model = tiny_model()
    model.config.save_pretrained(folder)
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(77).unsqueeze(0)
    save_file(tensors, folder / "model.safetensors")
    return model


def pictures(count: int = 5, side: int = 20) -> torch.Tensor:
    """Seeded uint8 noise `(N, 3, side, side + 4)`."""
    return torch.randint(0, 256, (count, 3, side, side + 4), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


PROMPTS = ["a cat", "two dogs on a beach", "x", "the quick brown fox jumps over the lazy dog " * 3, "a cat"]
