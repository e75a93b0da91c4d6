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
