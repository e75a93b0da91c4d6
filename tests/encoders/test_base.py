"""What is asked of a user's encoder object, and what is said when an attribute is not what it should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_encoders import LayerNormEncoder, PlainEncoder

from minoritybench.encoders.base import encoder_facts
from minoritybench.errors import BadInputError
from minoritybench.guidance import score_gradient
from minoritybench.registry import code_digests, resolve
from minoritybench.scoring import Rsvd, exact_scores


def with_attributes(**attributes: Any) -> PlainEncoder:
    encoder = PlainEncoder(lambda x: x.flatten(1))
    for name, value in attributes.items():
        setattr(encoder, name, value)
    return encoder


def test_whole_numbers_of_any_kind_are_taken() -> None:
    facts = encoder_facts(with_attributes(dim=np.int64(12), input_size=torch.tensor(8)), "mine")
    assert (facts["dim"], facts["input_size"], facts["micro_batch"], facts["threads"]) == (12, 8, 8, None)
    assert type(facts["dim"]) is int


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"micro_batch": 0}, "micro_batch must be at least 1"),
        ({"threads": 1.5}, "threads must be an integer, not float"),
        ({"input_size": (8, 8)}, "input_size must be an integer, not tuple"),
        ({"preprocess": lambda x: x}, "preprocess must be a string, not function"),
        ({"weights_sha256": 3}, "weights_sha256 must be a string, not int"),
    ],
)
def test_attributes_of_other_types_are_named(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        encoder_facts(with_attributes(**attributes), "mine")


class FusedAttention(nn.Module):
    """One attention layer through PyTorch's fused kernels, which have no second derivative on their own."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(6, 24), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.flatten(2)).chunk(3, dim=-1)
        attended = nn.functional.scaled_dot_product_attention(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1))
        z: Tensor = self.head(attended.mean(dim=(1, 2)))
        return z


def test_fused_attention_of_a_user_is_scored_and_guides() -> None:
    torch.manual_seed(0)
    encoder = PlainEncoder(FusedAttention().requires_grad_(False))
    prepared = torch.rand(2, 3, 2, 3)
    assert exact_scores(encoder, prepared).deflated.isfinite().all()
    gradient = score_gradient(encoder, prepared, Rsvd(), torch.randn(2, 5, 18)).gradient
    assert gradient.abs().amax() > 0


def test_guidance_never_looks_along_null_directions() -> None:
    """With room for all of them, d - m directions are searched: the head's own two carry only rounding."""
    encoder = LayerNormEncoder(27, 12)
    prepared = torch.rand(2, 3, 3, 3, dtype=torch.float64)
    result = score_gradient(encoder, prepared, Rsvd(12, 4, 1), torch.randn(2, 16, 27, dtype=torch.float64))
    assert (result.found.sigma.shape[1], result.passes["encoder_double_backward"]) == (10, 10)
    assert torch.allclose(result.score, exact_scores(encoder, prepared).deflated, atol=1e-9)


def test_files_of_one_name_in_two_folders_stay_apart(tmp_path: Path) -> None:
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"VALUE = {value}\n")
    names = [f"{tmp_path / folder / 'mine.py'}:VALUE" for folder in ("a", "b")]
    assert [resolve("encoders", name) for name in names] == [1, 2]
    digests = code_digests(*names, "digits-jepa")
    assert set(digests) == set(names)
    assert len(set(digests.values())) == 2
