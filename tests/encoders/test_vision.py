"""Real encoders, built from their real configurations: sizes on the meta device, behaviour at full width, depth 2."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import minoritybench
from minoritybench.assets import CACHE_VARIABLE
from minoritybench.data.resize import resize
from minoritybench.encoders import vision
from minoritybench.errors import BadInputError, MissingAssetError
from minoritybench.scoring import exact_scores


@pytest.fixture(autouse=True)
def _no_cached_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every architecture at full width and depth 2."""
    sizes = {name: dataclasses.replace(size, depth=2) for name, size in vision.DINOV2_SIZES.items()}
    monkeypatch.setattr(vision, "DINOV2_SIZES", sizes)
    monkeypatch.setattr(vision, "IJEPA_VITH14", dataclasses.replace(vision.IJEPA_VITH14, depth=2))


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("size", "registers", "count"),
    [
        ("vits14", True, 22_058_112),
        ("vits14", False, 22_056_576),
        ("vitb14", True, 86_583_552),
        ("vitl14", True, 304_372_736),
    ],
)
def test_dinov2_parameter_counts(size: str, registers: bool, count: int) -> None:
    with torch.device("meta"):
        model = vision.dinov2_architecture(vision.DINOV2_SIZES[size], registers)
    assert parameters(model) == count
    assert tuple(model.embeddings.position_embeddings.shape) == (1, 1 + 37 * 37, vision.DINOV2_SIZES[size].width)


def test_ijepa_parameter_count() -> None:
    with torch.device("meta"):
        assert parameters(vision.ijepa_architecture(vision.IJEPA_VITH14)) == 630_762_240


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize(("name", "dim", "nulls"), [("dinov2-vits14", 384, 2), ("dinov2-vits14-reg", 384, 2)])
def test_dinov2_output_is_the_normed_class_token(name: str, dim: int, nulls: int) -> None:
    encoder: Any = minoritybench.load_encoder(name, weights="random", input_size=28)
    images = torch.rand(2, 3, 40, 30)
    prepared = encoder.prepare(images)
    assert prepared.shape == (2, 3, 28, 28)
    z = encoder(prepared)
    assert z.shape == (2, dim) == (2, encoder.dim)
    assert torch.equal(z, encoder.module.model(pixel_values=prepared).pooler_output)
    norm = encoder.module.model.layernorm
    x_hat = (z - norm.bias) / norm.weight
    assert torch.allclose(x_hat.mean(dim=1), torch.zeros(2), atol=1e-5)
    assert encoder.null_directions(z).shape == (2, dim, nulls)


@pytest.mark.usefixtures("shallow")
def test_declared_nulls_are_null_and_nothing_else_is() -> None:
    encoder: Any = minoritybench.load_encoder("dinov2-vits14-reg", weights="random", input_size=28, dtype="float64")
    scores = exact_scores(encoder, encoder.prepare(torch.rand(1, 3, 28, 28)))
    assert scores.sigma.shape == (1, 382)
    assert scores.sigma[0, -1] > 1e-3
    assert not scores.rank_deficit.any()


@pytest.mark.usefixtures("shallow")
def test_ijepa_is_the_mean_of_normed_patch_tokens() -> None:
    encoder: Any = minoritybench.load_encoder("ijepa-vith14", weights="random", input_size=28)
    prepared = encoder.prepare(torch.rand(1, 3, 28, 28))
    tokens = encoder.module.model(pixel_values=prepared, interpolate_pos_encoding=True).last_hidden_state
    assert tokens.shape == (1, 4, 1280)
    assert torch.allclose(encoder(prepared), tokens.mean(dim=1), atol=1e-6)
    null = encoder.null_directions(encoder(prepared))
    z = encoder(prepared.requires_grad_(True))
    (gradient,) = torch.autograd.grad((z * null[..., 0]).sum(), prepared)
    assert gradient.abs().max() < 1e-4


def test_open_clip_tower_is_projected_and_not_normalised() -> None:
    encoder: Any = minoritybench.load_encoder("metaclip-b16", weights="random", input_size=32)
    z = encoder(encoder.prepare(torch.rand(1, 3, 32, 32)))
    assert z.shape == (1, 512)
    assert abs(float(z.norm()) - 1) > 0.1
    assert encoder.null_directions(z) is None


def test_timm_model_by_name() -> None:
    encoder: Any = minoritybench.load_encoder("timm:vit_tiny_patch16_224", weights="random", input_size=32)
    z = encoder(encoder.prepare(torch.rand(1, 3, 50, 50)))
    assert z.shape == (1, 192) == (1, encoder.dim)
    assert encoder.null_directions(z).shape == (1, 192, 2)


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("name", ["dinov2-vits14-reg", "timm:vit_tiny_patch16_224", "metaclip-b16"])
def test_encoders_have_second_derivatives(name: str) -> None:
    encoder: Any = minoritybench.load_encoder(name, weights="random", input_size=28 if "dino" in name else 32)
    x = encoder.prepare(torch.rand(1, 3, 28, 28)).requires_grad_(True)
    (first,) = torch.autograd.grad(encoder(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert second.abs().max() > 0


def test_author_preset_reads_two_pixels_in_four_and_antialias_all() -> None:
    """At a quarter of the size the published resize averages columns 4i+1 and 4i+2; what lies between is not seen."""
    lines = torch.zeros(1, 3, 112, 112)
    lines[..., ::4] = 1.0
    assert resize(lines, "author-bilinear-28").abs().max() == 0
    assert torch.allclose(resize(lines, "antialias-28")[..., 2:-2], torch.tensor(0.25), atol=0.02)


@pytest.mark.usefixtures("shallow")
def test_weights_round_trip_under_the_published_names(tmp_path: Path) -> None:
    source: Any = minoritybench.load_encoder("dinov2-vits14-reg", weights="random", input_size=28)
    file = tmp_path / "model.safetensors"
    save_file({f"dinov2_with_registers.{k}": v for k, v in source.module.model.state_dict().items()}, file)
    loaded: Any = minoritybench.load_encoder("dinov2-vits14-reg", weights=file, input_size=28)
    x = source.prepare(torch.rand(1, 3, 28, 28))
    assert torch.equal(loaded(x), source(x))
    assert loaded.weights_sha256
    with pytest.raises(BadInputError, match="register_tokens"):
        minoritybench.load_encoder("dinov2-vits14", weights=file, input_size=28)


@pytest.mark.parametrize("name", ["dinov2-vitl14-reg", "ijepa-vith14", "metaclip-b16", "timm:vit_tiny_patch16_224"])
def test_missing_weights_say_what_to_fetch_and_where_it_goes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for target in ("dinov2_architecture", "ijepa_architecture"):  # the message must not wait for a big model
        monkeypatch.setattr(vision, target, lambda *_: nn.Identity())
    with pytest.raises(MissingAssetError) as error:
        minoritybench.load_encoder(name)
    message = str(error.value)
    assert "hf download" in message
    assert str(tmp_path / "cache") in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dinov2-vits14", {"input_size": 60}, "multiple of its 14"),
        ("dinov2-vits15", {}, "did you mean"),
        ("clip:ViT-B-99/openai", {}, "no model 'ViT-B-99'"),
        ("clip:ViT-B-32/nobody", {}, "pretrained tags"),
        ("timm:vit_tinny", {}, "no model"),
    ],
)
def test_unknown_names_and_sizes_are_explained(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        minoritybench.load_encoder(name, **options)


def test_pickled_weights_are_never_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"x": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(BadInputError, match="cannot be read"):
        minoritybench.load_encoder("timm:vit_tiny_patch16_224", weights=tmp_path / "trap.pth")
    assert not (tmp_path / "executed").exists()


def test_random_weights_are_seeded_and_awake() -> None:
    a, b = (minoritybench.load_encoder("timm:vit_tiny_patch16_224", weights="random", input_size=32) for _ in range(2))
    x: Tensor = a.prepare(torch.rand(1, 3, 32, 32))
    assert torch.equal(a(x), b(x))
    assert all(p.abs().max() > 1e-3 for p in a.module.parameters())  # type: ignore[attr-defined]
