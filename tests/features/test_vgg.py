"""VGG16 fc2 against torchvision's own transforms and network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from minoritybench.features import load_extractor, vgg


@pytest.mark.slow
def test_fc2_is_taken_after_its_relu_of_a_squashed_8_bit_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import transforms

    opened: list[Any] = []

    def fill(module: Any, path: Path, name: str) -> None:
        module.to_empty(device="cpu")
        generator = torch.Generator().manual_seed(0)
        for value in module.state_dict().values():
            value.normal_(0, (2 / value[0].numel()) ** 0.5 if value.ndim > 1 else 0.1, generator=generator)
        opened.append(module.eval().requires_grad_(False))

    monkeypatch.setattr(vgg, "locate", lambda name: (Path("file"), "0" * 64))
    monkeypatch.setattr(vgg, "load_into", fill)
    extractor = load_extractor("vgg16-fc2")
    monkeypatch.setattr(extractor, "micro_batch", 1)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    found = extractor(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
    caught: list[Tensor] = []
    opened[0].classifier[5].register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    prepare = transforms.Compose(
        [
            transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    opened[0](prepare(Image.fromarray(pixels))[None])
    assert found.shape == (1, 4096)
    assert (found >= 0).all()
    assert np.allclose(found, caught[0].numpy(), rtol=1e-4, atol=1e-4)
