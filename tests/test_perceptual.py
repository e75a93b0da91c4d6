"""Distances that methods ask for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from minoritybench.errors import BadInputError, MissingAssetError
from minoritybench.perceptual import BACKBONES, open_distance


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub folder."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_absent_weights_say_what_to_fetch_and_where_to_put_it(hub: Path) -> None:
    for name, backbone in BACKBONES.items():
        with pytest.raises(MissingAssetError) as told:
            open_distance(name)
        text = str(told.value)
        assert f"https://download.pytorch.org/models/{backbone.file}" in text
        assert str(hub / backbone.file) in text
        assert "\n" not in text


def test_unknown_name_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"unknown distance 'ssim'; known: l2, lpips-alex, lpips-vgg"):
        open_distance("ssim")


def test_l2_is_the_norm() -> None:
    a, b = torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, 2)
    assert open_distance("l2").value(a, b).tolist() == pytest.approx([12**0.5] * 2)


def lpips_by_hand(features: nn.Module, heads: dict[str, Tensor], a: Tensor, b: Tensor) -> Tensor:
    """The sum over five ReLU layers of the weighted squared difference of unit features, averaged over positions."""
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    x, y = (a - shift) / scale, (b - shift) / scale
    total, layer = torch.zeros(len(a)), 0
    for module in list(features.children())[:12]:
        x, y = module(x), module(y)
        if isinstance(module, nn.ReLU):
            u, v = (z / (z.norm(dim=1, keepdim=True) + 1e-8) for z in (x, y))
            weight = heads[f"lin{layer}.model.1.weight"].view(1, -1, 1, 1)
            total = total + ((u - v).square() * weight).sum(dim=1).mean(dim=(1, 2))
            layer += 1
    return total


@pytest.mark.slow
def test_lpips_is_the_published_formula_on_random_features(hub: Path) -> None:
    import torchmetrics.functional.image as installed
    from torchvision.models import alexnet

    torch.manual_seed(0)
    backbone = alexnet(weights=None)
    torch.save(backbone.state_dict(), hub / BACKBONES["lpips-alex"].file)
    need = open_distance("lpips-alex")
    heads = torch.load(
        Path(installed.__file__).parent / "lpips_models" / "alex.pth", map_location="cpu", weights_only=True
    )
    a, b = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        expected = lpips_by_hand(backbone.eval().features, heads, a, b)
    assert torch.allclose(need.value(a, b), expected, rtol=1e-4)
    assert torch.allclose(need.value(a, a), torch.zeros(2), atol=1e-7)
    assert need.sha256 is not None
    leaf = a.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(need.value(leaf, b).sum(), leaf)
    assert gradient.abs().sum() > 0
    grey = a[:, :1]
    assert torch.equal(need.value(grey, b), need.value(grey.expand(-1, 3, -1, -1), b))
    with pytest.raises(BadInputError, match="LPIPS needs images of 32 px or more, these have 8"):
        need.value(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8))
