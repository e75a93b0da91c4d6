"""ADM backends in the sampling loop: precision, labels, the cascade."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from toy_adm import SMALL, awake, model

import minoritybench
from minoritybench.assets import CACHE_VARIABLE
from minoritybench.diffusion.adm import presets
from minoritybench.diffusion.adm.cascade import AdmCascade, UpsamplerStreams, quantised
from minoritybench.diffusion.adm.model import AdmModel
from minoritybench.diffusion.adm.weights import save_network
from minoritybench.diffusion.loop import run_chain
from minoritybench.diffusion.schedule import make_schedule
from minoritybench.diffusion.step import Method, predict
from minoritybench.errors import BadInputError
from minoritybench.rng import ImageStreams

BFLOAT16_RELATIVE = 0.03
"""Root mean square of what bfloat16 moves the prediction of a toy by, relative to the prediction's; 0.013 seen."""
COMPILED_RELATIVE = 1e-4
"""Largest difference by which torch.compile moves a prediction, relative to the largest prediction."""

ONE_LEVEL = replace(SMALL, image_size=8, channel_mult=(1,), attention_sizes=())
BASE = replace(ONE_LEVEL, num_classes=5)
UPSAMPLER = replace(BASE, image_size=16, in_channels=6, attention_order="old")


def _noise(batch: int, seed: int = 0, size: int = 16) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_bfloat16_stays_near_float32_and_keeps_norms_embeddings_and_output() -> None:
    exact, rough = model(SMALL), model(SMALL, dtype="bfloat16")
    x, timestep = _noise(4), torch.tensor([0, 300, 600, 999])
    fine, coarse = (backend.predict(x, timestep, None) for backend in (exact, rough))
    assert coarse.dtype == torch.float32
    moved = (fine - coarse).square().mean().sqrt() / fine.square().mean().sqrt()
    assert 1e-4 < moved < BFLOAT16_RELATIVE
    types = {key: value.dtype for key, value in rough._network.state_dict().items()}
    kept = {key for key, dtype in types.items() if dtype == torch.float32}
    assert {"time_embed.0.weight", "out.0.weight", "out.2.weight", "input_blocks.1.0.in_layers.0.weight"} <= kept
    assert types["input_blocks.1.0.in_layers.2.weight"] == torch.bfloat16
    assert types["middle_block.1.qkv.weight"] == torch.bfloat16


def test_bfloat16_has_a_gradient() -> None:
    x = _noise(4).requires_grad_()
    fine, coarse = (
        torch.autograd.grad(model(SMALL, dtype=dtype).predict(x, torch.full((4,), 500), None).sum(), x)[0]
        for dtype in ("float32", "bfloat16")
    )
    assert coarse.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(fine.flatten(), coarse.flatten(), dim=0) > 0.99


@pytest.mark.large  # minutes in the compiler
def test_compiled_networks_predict_the_same() -> None:
    network = awake(ONE_LEVEL)
    plain, compiled = (
        AdmModel("toy", network, schedule="cosine", weights_sha256="", micro_batch=4, compiled=flag)
        for flag in (False, True)
    )
    x, timestep = _noise(4, size=8).requires_grad_(), torch.tensor([0, 300, 600, 999])
    expected, found = (backend.predict(x, timestep, None) for backend in (plain, compiled))
    assert (expected - found).abs().max() < COMPILED_RELATIVE * expected.abs().max()
    slopes = [torch.autograd.grad(output.sum(), x)[0] for output in (expected, found)]
    assert (slopes[0] - slopes[1]).abs().max() < COMPILED_RELATIVE * slopes[0].abs().max()


@pytest.mark.parametrize(("fraction", "end"), [(-1.0, "posterior"), (1.0, "beta")])
def test_learned_variance_reaches_both_ends(fraction: float, end: str) -> None:
    backend = model(SMALL)
    with torch.no_grad():
        backend._network.out[2].weight[3:] = 0
        backend._network.out[2].bias[3:] = fraction
    schedule = make_schedule("cosine", "50")
    for index in (0, 1, 30, 49):
        log_variance = predict(backend, schedule, _noise(2), index, None, Counter()).log_variance
        expected = (
            float(np.log(schedule.betas[index])) if end == "beta" else float(schedule.posterior_log_variance[index])
        )
        torch.testing.assert_close(log_variance, torch.full_like(log_variance, expected), rtol=1e-5, atol=1e-5)


def test_conditional_networks_need_labels_and_heed_them() -> None:
    backend = model(replace(SMALL, num_classes=5))
    x, timestep = _noise(2), torch.tensor([100, 100])
    with pytest.raises(BadInputError, match="needs labels"):
        backend.predict(x, timestep, None)
    first, second = (backend.predict(x, timestep, torch.tensor([label, label])) for label in (0, 4))
    assert (first - second).abs().max() > 1e-3


def test_other_precisions_are_refused() -> None:
    with pytest.raises(BadInputError, match="float32 or bfloat16"):
        model(SMALL, dtype="float64")


def _cascade() -> AdmCascade:
    return AdmCascade("toy", model(BASE), model(UPSAMPLER, micro_batch=2, schedule="linear"), steps="6")


def test_cascade_enlarges_with_labels_and_its_own_noise() -> None:
    cascade, streams = _cascade(), ImageStreams(3, [10, 11, 12, 13])
    images, labels = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3])
    passes: Counter[str] = Counter()
    with torch.no_grad():
        large = cascade.finish(images, labels, streams, passes)
        again = cascade.finish(images, labels, streams, Counter())
        relabelled = cascade.finish(images, labels.flip(0), streams, Counter())
        lighter = cascade.finish(images * 0.5, labels, streams, Counter())
        moved = cascade.finish(images.flip(0), labels.flip(0), ImageStreams(3, [13, 12, 11, 10]), Counter())
    assert large.shape == (4, 3, 16, 16)
    assert passes == {"upsampler_forward": 6}
    torch.testing.assert_close(again, large, rtol=0, atol=0)
    torch.testing.assert_close(moved.flip(0), large, rtol=0, atol=0)
    assert (relabelled - large).abs().max() > 1e-3
    assert (lighter - large).abs().max() > 1e-3


def test_cascade_second_stage_is_a_chain_of_the_upsampler_alone() -> None:
    """Against the chain written out: quantise, enlarge, concatenate, then plain ancestral sampling."""
    cascade = _cascade()
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([4, 3, 2, 1])
    levels = (images.numpy() * np.float32(255)).clip(0, 255).astype(np.uint8)
    low = torch.from_numpy(levels).float() / 127.5 - 1
    enlarged = torch.nn.functional.interpolate(low, size=(16, 16), mode="bilinear", align_corners=False)
    upsampler, spec = cascade.upsampler, make_schedule("linear", "6")

    class Beside:
        """The upsampler with the first two images beside x_t."""

        state_shape, schedule, train_steps = upsampler.state_shape, "linear", 1000

        def predict(self, x_t: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
            return upsampler.predict(torch.cat([x_t, enlarged[:2]], dim=1), timestep, labels)

    with torch.no_grad():
        found = cascade.finish(images, labels, ImageStreams(0, [0, 1, 2, 3]), Counter())
        state, _ = run_chain(Beside(), spec, Method(), UpsamplerStreams(0, [0, 1]), labels[:2])  # type: ignore[arg-type]
    torch.testing.assert_close(found[:2], (state + 1) / 2, rtol=0, atol=1e-5)


def test_the_two_stages_share_no_noise() -> None:
    base, second = ImageStreams(0, [1]), UpsamplerStreams(0, [1])
    for stream in ("initial", "transition"):
        assert not torch.equal(base.normal((8,), stream, 3), second.normal((8,), stream, 3))
    torch.testing.assert_close(second.normal((8,), "initial"), base.normal((8,), "upsampler-initial"))


def test_quantisation_truncates() -> None:
    values = torch.tensor([-0.1, 0.0, 0.9999 / 255, 1.0001 / 255, 0.99999, 1.0, 1.2])
    assert (quantised(values) * 255).round().tolist() == [0, 0, 0, 1, 254, 255, 255]


def test_micro_batches_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="do not divide"):
        AdmCascade("toy", model(BASE), model(UPSAMPLER, micro_batch=3))


@pytest.fixture
def tiny_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published names with toys of the same kinds behind them, saved where their files belong."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    for name, config in {"adm-celeba64": ONE_LEVEL, "adm-imagenet64": BASE, presets.UPSAMPLER: UPSAMPLER}.items():
        preset = presets.UNETS[name]
        tiny = replace(preset, config=config, micro_batch=2)
        monkeypatch.setitem(presets.UNETS, name, tiny)
        path = (tmp_path / "cache" / "adm" / preset.file.file).with_suffix(".safetensors")
        save_network(awake(config), path)


@pytest.mark.usefixtures("tiny_presets")
def test_benchmarks_sample_at_the_papers_settings(tmp_path: Path) -> None:
    outcome = minoritybench.sample(
        "sgms", tmp_path / "celeba", benchmark="celeba64", n=2, seeds=[0], settings={"distance": "l2"}
    )
    plan = json.loads((tmp_path / "celeba" / "plan.json").read_text())
    assert (plan["generator"]["name"], plan["spacing"]) == ("adm-celeba64", "250")
    assert plan["method"]["params"]["w"] == 0.4
    assert outcome.passes["denoiser_backward"] == 50
    assert outcome.passes["denoiser_forward"] == 300


@pytest.mark.usefixtures("tiny_presets")
def test_cascade_benchmark_draws_labels_unasked_whatever_the_batch(tmp_path: Path) -> None:
    both = minoritybench.sample("bns", tmp_path / "both", benchmark="imagenet256", n=2, seeds=[0])
    one = minoritybench.sample("bns", tmp_path / "one", benchmark="imagenet256", n=1, seeds=[0])
    plan = json.loads((tmp_path / "both" / "plan.json").read_text())
    assert plan["class_conditional"] is True
    assert plan["method"]["params"] == {"gamma": 2.5, "skip": 3}
    assert both.passes == {"denoiser_forward": 247, "upsampler_forward": 250}
    assert both.rows[0] == one.rows[0]
    assert all(row["label"] in range(5) for row in both.rows)
    assert Image.open(tmp_path / "both" / both.rows[0]["file"]).size == (16, 16)
