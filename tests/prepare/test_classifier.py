"""The networks that guide: which one a state calls for, what it depends on, rows that ignore their neighbours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy_adm import awake_classifier

from minoritybench.diffusion.adm.presets import CLASSIFIERS
from minoritybench.diffusion.adm.weights import save_network
from minoritybench.errors import BadInputError, MissingAssetError
from minoritybench.prepare.adm import published_guide
from minoritybench.prepare.classifier import GuideClassifier, GuideConfig, architecture_for
from minoritybench.store import sha256_file


def built(shape: tuple[int, ...], outputs: int, classes: int | None) -> GuideClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = GuideClassifier(GuideConfig(architecture_for(shape), shape, outputs, classes)).eval()
        for parameter in net.parameters():
            if not parameter.any():  # ADM starts its residual branches at zero: time and class would not matter yet
                torch.nn.init.normal_(parameter, std=0.02)
    return net


def noise(batch: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1))


def same_step(batch: int, t: int) -> Tensor:
    return torch.full((batch,), t)


@pytest.mark.parametrize("classes", [None, 10])
@pytest.mark.parametrize(("shape", "dim"), [((1, 8, 8), 32), ((3, 32, 32), 512), ((3, 64, 64), 512)])
def test_logits_depend_on_image_time_and_the_class_where_it_is_given(
    shape: tuple[int, ...], dim: int, classes: int | None
) -> None:
    net, x, labels = built(shape, 7, classes), noise(2, shape).requires_grad_(True), torch.tensor([1, 2])
    logits = net(x, same_step(2, 300), labels)
    assert logits.shape == (2, 7)
    assert net.features(x, same_step(2, 300), labels).shape == (2, dim)
    (gradient,) = torch.autograd.grad(logits[:, 3].sum(), x)
    assert gradient.abs().flatten(1).amax(dim=1).min() > 0
    assert not torch.allclose(net(x, same_step(2, 800), labels), logits)
    changed = net(x, same_step(2, 300), torch.tensor([1, 5]))
    assert torch.allclose(changed[0], logits[0], atol=1e-5)
    assert torch.allclose(changed[1], logits[1], atol=1e-5) == (classes is None)
    if classes is not None:
        with pytest.raises(BadInputError, match="--class-conditional"):
            net(x, same_step(2, 300))


def test_the_adm_encoder_has_the_published_size() -> None:
    """ADM's 64 px classifier of 1000 classes: 65,438,568 parameters."""
    with torch.device("meta"):
        net = GuideClassifier(GuideConfig("adm-encoder", (3, 64, 64), 1000))
    assert sum(p.numel() for p in net.parameters()) == 65_438_568


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    net, x = built((1, 8, 8), 2, None), noise(64, (1, 8, 8))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits = net(x, same_step(64, 400))
        assert torch.equal(net(x[order], same_step(64, 400)), logits[order])


def test_shapes_that_no_network_fits_are_refused() -> None:
    for shape in ((1, 28, 28), (4, 64, 32), (3, 100, 100)):
        with pytest.raises(BadInputError, match="no classifier architecture"):
            architecture_for(shape)
    with pytest.raises(BadInputError, match="film-mlp"):
        GuideClassifier(GuideConfig("resnet", (1, 8, 8), 2))


def test_the_published_noisy_classifier_serves_as_a_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINORITYBENCH_CACHE", str(tmp_path))
    with pytest.raises(MissingAssetError, match=r"64x64_classifier\.pt"):
        published_guide("adm-classifier-64", "cpu")
    network = awake_classifier(CLASSIFIERS["adm-classifier-64"].config)
    (tmp_path / "adm").mkdir()
    save_network(network, tmp_path / "adm" / "64x64_classifier.safetensors")
    guide, sha256 = published_guide("adm-classifier-64", "cpu")
    assert sha256 == sha256_file(tmp_path / "adm" / "64x64_classifier.safetensors")
    x = noise(1, (3, 64, 64))
    with torch.no_grad():
        assert torch.equal(guide(x, same_step(1, 300)), network(x, same_step(1, 300)))
        assert guide.features(x, same_step(1, 300)).shape == (1, 512)
