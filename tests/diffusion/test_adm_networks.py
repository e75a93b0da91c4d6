"""ADM networks: the published shapes, and the arithmetic against diffusers' own U-Net."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from toy_adm import SMALL, SMALL_CLASSIFIER, awake, awake_classifier

from minoritybench.diffusion.adm import AdmConfig, AdmUNet, ClassifierConfig
from minoritybench.diffusion.adm.blocks import AttentionPool, timestep_features
from minoritybench.diffusion.adm.presets import CLASSIFIERS, UNETS, UPSAMPLER
from minoritybench.diffusion.adm.weights import skeleton
from minoritybench.errors import BadInputError

LSUN_HEAD = ClassifierConfig(image_size=8, in_channels=512, res_blocks=2, channel_mult=(1,), outputs=100)

PUBLISHED = [
    (UNETS["adm-celeba64"].config, 295_136_454, 540, (192, 3, 3, 3), None, (6, 192, 3, 3)),
    (UNETS["adm-imagenet64"].config, 295_904_454, 541, (192, 3, 3, 3), (1000, 768), (6, 192, 3, 3)),
    (UNETS[UPSAMPLER].config, 311_795_910, 567, (192, 6, 3, 3), (1000, 768), (6, 192, 3, 3)),
    (UNETS["adm-imagenet256"].config, 553_838_086, 567, (256, 3, 3, 3), (1000, 1024), (6, 256, 3, 3)),
    (UNETS["adm-imagenet256-uncond"].config, 552_814_086, 566, (256, 3, 3, 3), None, (6, 256, 3, 3)),
    (UNETS["adm-lsun-bedroom"].config, 552_814_086, 566, (256, 3, 3, 3), None, (6, 256, 3, 3)),
    (UNETS["adm-lsun-cat"].config, 552_814_086, 566, (256, 3, 3, 3), None, (6, 256, 3, 3)),
    (UNETS["adm-lsun-horse"].config, 552_814_086, 566, (256, 3, 3, 3), None, (6, 256, 3, 3)),
    (CLASSIFIERS["adm-classifier-64"].config, 65_438_568, 307, (128, 3, 3, 3), None, (1000, 512, 1)),
    (CLASSIFIERS["adm-classifier-256"].config, 54_096_360, 249, (128, 3, 3, 3), None, (1000, 512, 1)),
    (LSUN_HEAD, 2_896_612, 71, (128, 512, 3, 3), None, (100, 128, 1)),
]


@pytest.mark.parametrize(("config", "parameters", "keys", "first", "labels", "last"), PUBLISHED)
def test_parameters_and_keys_are_the_published_ones(
    config: AdmConfig | ClassifierConfig,
    parameters: int,
    keys: int,
    first: tuple[int, ...],
    labels: tuple[int, ...] | None,
    last: tuple[int, ...],
) -> None:
    state = skeleton(config).state_dict()
    assert sum(value.numel() for value in state.values()) == parameters
    assert len(state) == keys
    assert state["input_blocks.0.0.weight"].shape == first
    assert ("label_emb.weight" in state) == (labels is not None)
    assert labels is None or state["label_emb.weight"].shape == labels
    assert state["out.2.weight" if isinstance(config, AdmConfig) else "out.2.c_proj.weight"].shape == last


def test_presets_hold_what_shapes_do_not_tell() -> None:
    orders = {name: preset.config.attention_order for name, preset in UNETS.items()}
    assert {name for name, order in orders.items() if order == "new"} == {"adm-celeba64", "adm-imagenet64"}
    assert {name for name, preset in UNETS.items() if preset.schedule == "cosine"} == {
        "adm-celeba64",
        "adm-imagenet64",
    }
    assert {name for name, preset in UNETS.items() if preset.config.heads is not None} == {UPSAMPLER}


def _as_diffusers(network: AdmUNet) -> UNet2DModel:
    """The same function in diffusers' U-Net: its layers, filled through a map of keys written for this test."""
    config = network.config
    attends = [config.side(level) in config.attention_sizes for level in range(len(config.widths))]
    other = UNet2DModel(
        sample_size=config.image_size,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        down_block_types=tuple("AttnDownBlock2D" if a else "ResnetDownsampleBlock2D" for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else "ResnetUpsampleBlock2D" for a in reversed(attends)),
        block_out_channels=config.widths,
        layers_per_block=config.res_blocks,
        downsample_type="resnet",
        upsample_type="resnet",
        attention_head_dim=config.widths[-1] // config.heads_of(config.widths[-1]),
        attn_norm_num_groups=32,
        resnet_time_scale_shift="scale_shift",
        num_class_embeds=config.num_classes,
    )
    other.load_state_dict(_renamed(network))
    return other.eval()


def _renamed(network: AdmUNet) -> dict[str, Tensor]:
    config, ours = network.config, network.state_dict()
    levels = len(config.widths)
    modules = {"input_blocks.0.0": "conv_in", "time_embed.0": "time_embedding.linear_1"}
    modules |= {"time_embed.2": "time_embedding.linear_2", "label_emb": "class_embedding"}
    modules |= {"out.0": "conv_norm_out", "out.2": "conv_out"}
    modules |= {f"middle_block.{i}": f"mid_block.{n}" for i, n in enumerate(("resnets.0", "attentions.0", "resnets.1"))}
    position = 1
    for level in range(levels):
        for block in range(config.res_blocks):
            modules[f"input_blocks.{position}.0"] = f"down_blocks.{level}.resnets.{block}"
            modules[f"input_blocks.{position}.1"] = f"down_blocks.{level}.attentions.{block}"
            position += 1
        if level < levels - 1:
            modules[f"input_blocks.{position}.0"] = f"down_blocks.{level}.downsamplers.0"
            position += 1
    position = 0
    for up, level in enumerate(reversed(range(levels))):
        attends = config.side(level) in config.attention_sizes
        for block in range(config.res_blocks + 1):
            modules[f"output_blocks.{position}.0"] = f"up_blocks.{up}.resnets.{block}"
            if attends:
                modules[f"output_blocks.{position}.1"] = f"up_blocks.{up}.attentions.{block}"
            if level > 0 and block == config.res_blocks:
                modules[f"output_blocks.{position}.{1 + attends}"] = f"up_blocks.{up}.upsamplers.0"
            position += 1
    layers = {"in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2"}
    layers |= {
        "out_layers.3": "conv2",
        "skip_connection": "conv_shortcut",
        "norm": "group_norm",
        "proj_out": "to_out.0",
    }
    theirs: dict[str, Tensor] = {}
    for key, value in ours.items():
        module = next(name for name in sorted(modules, key=len, reverse=True) if key.startswith(f"{name}."))
        inner, _, kind = key.removeprefix(f"{module}.").rpartition(".")
        target = modules[module]
        if inner == "qkv":
            flat = value.flatten(1) if value.ndim == 3 else value
            for name, part in zip("qkv", _parts(flat, config), strict=True):
                theirs[f"{target}.to_{name}.{kind}"] = part
        elif inner == "proj_out":
            theirs[f"{target}.to_out.0.{kind}"] = value.flatten(1) if value.ndim == 3 else value
        else:
            theirs[".".join(filter(None, (target, layers.get(inner, inner), kind)))] = value
    return theirs


def _parts(rows: Tensor, config: AdmConfig) -> list[Tensor]:
    """Rows of q, k and v, each with its heads in turn."""
    if config.attention_order == "new":
        return list(rows.chunk(3))
    width = rows.shape[0] // 3
    per_head = width // config.heads_of(width)
    blocks = rows.split(per_head)
    return [torch.cat(blocks[i::3]) for i in range(3)]


@pytest.mark.parametrize(
    "config",
    [
        replace(SMALL, attention_order="new"),
        replace(SMALL, attention_order="old"),
        replace(SMALL, attention_order="old", heads=2, num_classes=7, in_channels=6),
        replace(SMALL, res_blocks=2, channel_mult=(1, 1, 2), attention_sizes=(8, 4), head_channels=8, out_channels=3),
    ],
)
def test_forward_is_that_of_diffusers(config: AdmConfig) -> None:
    network = awake(config)
    other = _as_diffusers(network)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, config.in_channels, config.image_size, config.image_size, generator=generator)
    timesteps = torch.tensor([0, 500, 999])
    labels = None if config.num_classes is None else torch.tensor([0, 3, 6])
    ours = network(x, timesteps, labels)
    theirs = other(x, timesteps, class_labels=labels).sample
    assert ours.std() > 0.1
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_the_wrong_attention_order_is_seen() -> None:
    new, old = awake(replace(SMALL, attention_order="new")), awake(replace(SMALL, attention_order="old"))
    x, timesteps = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([5, 600])
    difference = (new(x, timesteps) - old(x, timesteps)).abs().max()
    assert difference > 1e-2 * new(x, timesteps).abs().max()


def test_attention_pool_is_torch_multi_head_attention() -> None:
    torch.manual_seed(0)
    pool = AttentionPool(side=3, channels=16, heads=4, outputs=16)
    other = nn.MultiheadAttention(16, 4, batch_first=True)
    other.load_state_dict(
        {
            "in_proj_weight": pool.qkv_proj.weight[:, :, 0],
            "in_proj_bias": pool.qkv_proj.bias,
            "out_proj.weight": pool.c_proj.weight[:, :, 0],
            "out_proj.bias": pool.c_proj.bias,
        }
    )
    x = torch.randn(2, 16, 3, 3)
    tokens = torch.cat([x.flatten(2).mean(2, keepdim=True), x.flatten(2)], dim=2) + pool.positional_embedding
    expected = other(tokens.mT, tokens.mT, tokens.mT)[0][:, 0]
    torch.testing.assert_close(pool(x), expected)


def test_timestep_features_are_cosines_then_sines() -> None:
    found = timestep_features(torch.tensor([0, 7]), 4).double()
    expected = torch.tensor([[1, 1, 0, 0], [7.0, 0.07, 7.0, 0.07]], dtype=torch.float64)
    expected[1, :2], expected[1, 2:] = expected[1, :2].cos(), expected[1, 2:].sin()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_classifier_reads_image_and_timestep_and_heads_stack_on_features() -> None:
    classifier = awake_classifier(SMALL_CLASSIFIER)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    early, late = (classifier(x, torch.tensor([t, t])) for t in (1, 900))
    assert early.shape == (2, 5)
    assert (early - late).abs().max() > 1e-3
    features = classifier.features(x, torch.tensor([1, 1]))
    assert features.shape == (2, 64, 8, 8)
    head = awake_classifier(
        ClassifierConfig(image_size=8, in_channels=64, channels=32, res_blocks=2, channel_mult=(1,), head_channels=16)
    )
    assert head(features, torch.tensor([1, 1])).shape == (2, 1000)
    torch.testing.assert_close(classifier.out(features), early)


def test_fresh_networks_predict_zero() -> None:
    assert AdmUNet(SMALL)(torch.randn(1, 3, 16, 16), torch.tensor([3])).abs().max() == 0


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_flow_through_frozen_weights(checkpointing: bool) -> None:
    network = awake(SMALL).double()
    network.checkpointing = checkpointing
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, 3, 16, 16, generator=generator, dtype=torch.float64).requires_grad_()
    cotangent = torch.randn(1, 6, 16, 16, generator=generator, dtype=torch.float64)
    direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    timesteps = torch.tensor([400])

    def value(point: Tensor) -> Tensor:
        return (network(point, timesteps) * cotangent).sum()

    (gradient,) = torch.autograd.grad(value(x), x)
    step = 1e-5
    with torch.no_grad():
        slope = (value(x + step * direction) - value(x - step * direction)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-6)


def test_checkpointing_changes_neither_first_nor_second_derivatives() -> None:
    found = []
    for checkpointing in (False, True):
        network = awake(SMALL)
        network.checkpointing = checkpointing
        x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3)).requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
            (first,) = torch.autograd.grad(network(x, torch.tensor([10, 800])).square().sum(), x, create_graph=True)
            (second,) = torch.autograd.grad(first.square().sum(), x)
        found.append((first.detach(), second))
    assert found[0][1].abs().max() > 0
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 40}, "multiple of the 32"),
        ({"image_size": 15}, "cannot be halved"),
        ({"head_channels": 48}, "does not divide by 48"),
        ({"heads": 3}, "does not divide by 3"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        replace(SMALL, **change)
