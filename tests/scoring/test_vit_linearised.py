"""The hand-linearised vision transformer against autograd in float64, for every architecture it reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    IJepaConfig,
    IJepaModel,
)

from minoritybench.embedded.models import IJepaViT
from minoritybench.encoders.module import randomise
from minoritybench.scoring.vit import LinearisedVit
from minoritybench.scoring.vit.adapters import linearised_digits, linearised_dinov2, linearised_ijepa

SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 7,
    "attn_implementation": "sdpa",  # transformers' eager I-JEPA attention takes its softmax in float32
}
ARCHITECTURES = ("dinov2", "dinov2-swiglu", "registers", "registers-swiglu", "ijepa", "digits")


class Case:
    """A small random network in float64, its linearisation and two inputs."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(1)
        self.inputs = torch.randn(2, 3, 21, 21, dtype=torch.float64)
        model: Any
        linear: LinearisedVit | None
        if name == "digits":
            model = IJepaViT().double()
            self.inputs = torch.randn(2, 1, 8, 8, dtype=torch.float64)
            self.function, linear = model, linearised_digits(model)
        elif name == "ijepa":
            model = _awake(IJepaModel(IJepaConfig(intermediate_size=64, **SHAPE), add_pooling_layer=False))
            self.function = lambda x: model(x, interpolate_pos_encoding=True).last_hidden_state.mean(dim=1)
            linear = linearised_ijepa(model, True)
        else:
            swiglu = name.endswith("swiglu")
            if name.startswith("registers"):
                config = Dinov2WithRegistersConfig(num_register_tokens=4, use_swiglu_ffn=swiglu, **SHAPE)
                model = _awake(Dinov2WithRegistersModel(config))
            else:
                model = _awake(Dinov2Model(Dinov2Config(use_swiglu_ffn=swiglu, **SHAPE)))
            self.function, linear = (lambda x: model(x).last_hidden_state[:, 0]), linearised_dinov2(model)
        assert linear is not None
        self.linear = linear
        self.model: nn.Module = model

    def jacobian(self) -> Tensor:
        """`(2, d, n)` by autograd."""
        return torch.stack(
            [
                torch.autograd.functional.jacobian(lambda x: self.function(x.unsqueeze(0))[0], image).flatten(1)
                for image in self.inputs
            ]
        )


def _awake(model: nn.Module) -> nn.Module:
    model = model.eval().requires_grad_(False)
    randomise(model)
    return model.double()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_output_and_gram_matrix_equal_those_of_autograd(name: str) -> None:
    case = Case(name)
    assert torch.allclose(case.linear.at(case.inputs).z, case.function(case.inputs), rtol=0, atol=1e-13)
    jacobian = case.jacobian()
    expected = jacobian @ jacobian.transpose(1, 2)
    found = case.linear.gram(case.inputs)
    assert found.dtype == torch.float64
    assert (found - expected).abs().max() < 1e-13 * expected.abs().max()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_few_rows_equal_combinations_of_all_rows(name: str) -> None:
    """Three cotangents go through the MLP's two layers, a full set through matrices a token."""
    case = Case(name)
    state = case.linear.at(case.inputs)
    cotangents = torch.randn(2, 3, case.linear.dim, dtype=torch.float64)
    found = case.linear.rows(state, cotangents)
    expected = torch.einsum("brd,bpdm->bprm", cotangents, case.linear.jacobian_rows(state))
    assert (found - expected).abs().max() < 1e-13 * expected.abs().max()


@pytest.mark.parametrize("name", ["dinov2", "ijepa"])
def test_float32_gram_matrix_is_as_exact_as_its_rows(name: str) -> None:
    case = Case(name)
    expected = case.linear.gram(case.inputs)
    found = case.linear.gram(case.inputs, torch.float32)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_rows_go_into_a_larger_buffer_and_no_further() -> None:
    case = Case("dinov2")
    state = case.linear.at(case.inputs)
    identity = torch.eye(32, dtype=torch.float64).expand(2, -1, -1)
    buffer = torch.full((2, 10, 32, 32), 7.0, dtype=torch.float64)
    found = case.linear.rows(state, identity[:, :4], out=buffer[:, :, :4])
    assert torch.equal(found, case.linear.rows(state, identity[:, :4]))
    assert (buffer[:, :, 4:] == 7.0).all()


def test_unknown_layouts_are_left_to_the_generic_path() -> None:
    """The tanh GELU is another function, and a reduced precision another network."""
    tanh = Dinov2Model(Dinov2Config(hidden_act="gelu_pytorch_tanh", **SHAPE))
    assert linearised_dinov2(tanh) is None
    assert linearised_dinov2(nn.Linear(2, 2)) is None
    assert linearised_digits(IJepaViT().bfloat16()) is None
