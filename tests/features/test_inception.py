"""Inception in both ports, random weights: layers against hooks, the whole against clean-fid's copy of pytorch-fid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_inception import place_weights, random_network

from minoritybench.data.resize import resize
from minoritybench.features import Space, describe, load_extractor, weights
from minoritybench.features.inception import FID_LAYERS, fid_layers


@pytest.fixture(scope="module")
def network() -> Any:
    return random_network()


@pytest.fixture
def placed(network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place_weights(network, tmp_path, monkeypatch)


def pictures(*sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.rand(1, 3, size, size, generator=generator) * 255).round() / 255 for size in sizes]


def test_spatial_features_are_those_of_the_first_branch_of_mixed_6d(network: Any) -> None:
    """The TensorFlow layer of sFID is that branch before anything is joined to it; Mixed_6e's is another."""
    caught: dict[str, Tensor] = {}
    hooks = [
        getattr(network, block).branch1x1.register_forward_hook(
            lambda module, inputs, output, block=block: caught.__setitem__(block, output)
        )
        for block in ("Mixed_6d", "Mixed_6e")
    ]
    x = resize(pictures(64)[0], "author-bilinear-299") * 2 - 1
    with torch.no_grad():
        found = fid_layers(network, x)
    for hook in hooks:
        hook.remove()
    assert caught["Mixed_6d"].shape[2:] == (17, 17)
    assert found["6d"].shape == (1, 2023)
    assert torch.equal(found["6d"], caught["Mixed_6d"][:, :7].flatten(1))
    assert torch.equal(found["6e"], caught["Mixed_6e"][:, :7].flatten(1))
    assert not torch.allclose(found["6d"], found["6e"])
    assert torch.allclose(found["logits"], network.fc(found["pool3"]) - network.fc.bias, atol=1e-4)


def test_pool3_is_that_of_clean_fids_copy_of_pytorch_fid(
    network: Any, placed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That copy loads the published file strictly, so its key names are the file's."""
    from cleanfid import inception_pytorch

    monkeypatch.setattr(inception_pytorch, "load_state_dict_from_url", lambda *a, **k: network.state_dict())
    with pytest.warns(UserWarning, match="deprecated"):
        theirs = inception_pytorch.InceptionV3(output_blocks=[3], resize_input=False).eval()
    images = pictures(48, 64)
    with torch.no_grad():
        expected = [theirs(resize(image, "author-bilinear-299"))[0].flatten().numpy() for image in images]
    found = load_extractor("inception-fid")(images[0])
    assert np.allclose(found[0], expected[0], atol=1e-5)
    both = describe(load_extractor("inception-fid"), images, [Space("inception-fid", "pool3")])
    assert np.allclose(both["features/inception-fid#pool3"], expected, atol=1e-5)


def test_one_pass_gives_all_layers_and_an_image_alone_is_described_as_among_others(placed: None) -> None:
    extractor = load_extractor("inception-fid")
    spaces = [Space("inception-fid", layer) for layer in FID_LAYERS]
    images = pictures(32, 40, 32)
    together = describe(extractor, images, spaces)
    assert [array.shape for array in together.values()] == [(3, 2048), (3, 2023), (3, 2023), (3, 1008)]
    alone = describe(extractor, images[1:2], spaces)
    for key, array in together.items():
        assert np.allclose(array[1:2], alone[key], rtol=1e-4, atol=1e-5)


class _Published(nn.Module):
    """What clean-fid expects of its TorchScript file: `layers` maps `(B, 3, 299, 299)` to `(B, 2048)`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d((32, 64)), nn.Conv2d(3, 1, 1), nn.Flatten())

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        return self.layers(x)


def test_clean_inception_takes_the_clean_resize_in_grey_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINORITYBENCH_CACHE", str(tmp_path))
    known = weights.PUBLISHED["inception-clean"]
    monkeypatch.setitem(weights.PUBLISHED, "inception-clean", replace(known, sha256=None))
    place = tmp_path / "extractors" / "inception-clean" / known.file
    place.parent.mkdir(parents=True)
    torch.manual_seed(0)
    stand_in = _Published().eval()
    torch.jit.script(stand_in).save(str(place))
    from cleanfid.resize import make_resizer

    image = pictures(64)[0]
    levels = (image[0] * 255).permute(1, 2, 0).numpy().round().astype(np.uint8)
    theirs = make_resizer("PIL", False, "bicubic", (299, 299))(levels)
    with torch.no_grad():
        expected = stand_in((torch.from_numpy(theirs).permute(2, 0, 1)[None] - 128) / 128).numpy()
    extractor = load_extractor("inception-clean")
    assert extractor(image).shape == (1, 2048)
    assert np.allclose(extractor(image), expected, atol=1e-4)
