"""Scores by way of the linearised vision transformer: agreement with the generic path, batching, precision, memory."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

import minoritybench
from minoritybench.encoders.embedded import DigitsEncoder
from minoritybench.errors import BadInputError
from minoritybench.scoring import exact_scores
from minoritybench.scoring.spectrum import scores_from_jacobian


def inputs(encoder: Any, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return encoder.prepare(torch.rand(count, 3, 42, 42, generator=generator))


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("name", ["dinov2-vits14", "dinov2-vits14-reg", "dinov2-vitg14", "ijepa-vith14"])
def test_paths_agree(name: str) -> None:
    """1e-9 nat in float64, 1e-3 in float32; the null pair's share of `reference` is rounding noise in float32."""
    encoder: Any = minoritybench.load_encoder(name, weights="random", input_size=42, dtype="float64")
    single: Any = minoritybench.load_encoder(name, weights="random", input_size=42)
    assert encoder.linearised() is not None
    if name.startswith("ijepa"):  # eager attention takes its softmax in float32 whatever the dtype
        encoder.module.model.set_attn_implementation("sdpa")
    prepared = inputs(encoder, 2)
    generic = exact_scores(encoder, prepared, path="generic")
    linear = exact_scores(encoder, prepared)
    assert (linear.deflated - generic.deflated).abs().max() < 1e-9
    assert (linear.reference - generic.reference).abs().max() < 1e-3
    assert linear.sigma.shape == generic.sigma.shape
    assert linear.approximation is None
    assert (exact_scores(single, prepared.float()).deflated - generic.deflated).abs().max() < 1e-3


@pytest.mark.usefixtures("narrow")
def test_scores_are_bitwise_independent_of_batch_and_order() -> None:
    encoder: Any = minoritybench.load_encoder("dinov2-vits14", weights="random", input_size=42)
    prepared = inputs(encoder, 11)
    whole = exact_scores(encoder, prepared)
    for field in ("deflated", "reference"):
        scores = getattr(whole, field)
        alone = torch.cat([getattr(exact_scores(encoder, prepared[i : i + 1]), field) for i in range(11)])
        assert torch.equal(alone, scores)
        assert torch.equal(getattr(exact_scores(encoder, prepared.flip(0)), field), scores.flip(0))


def test_digits_judge_agrees_with_automatic_differentiation(digits: Tensor) -> None:
    encoder = minoritybench.load_encoder("digits-ijepa")
    prepared = encoder.prepare(digits[:20])
    linear, generic = exact_scores(encoder, prepared), exact_scores(encoder, prepared, path="generic")
    assert (linear.deflated - generic.deflated).abs().max() < 1e-4
    assert (linear.reference - generic.reference).abs().max() < 1e-4


def test_bfloat16_rows_rank_and_say_that_they_only_rank(digits: Tensor) -> None:
    encoder = minoritybench.load_encoder("digits-ijepa")
    prepared = encoder.prepare(digits[:100])
    rough = exact_scores(encoder, prepared, rows_dtype=torch.bfloat16)
    assert rough.approximation == "bfloat16 rows: for ranking only"
    assert spearmanr(rough.deflated, exact_scores(encoder, prepared).deflated)[0] >= 0.998


def test_row_precision_needs_a_linearised_form(digits: Tensor) -> None:
    encoder = minoritybench.load_encoder("digits-vicreg")
    with pytest.raises(BadInputError, match="linearised form"):
        exact_scores(encoder, encoder.prepare(digits[:1]), rows_dtype=torch.bfloat16)


def test_a_changed_output_with_the_old_linearised_form_is_refused(digits: Tensor) -> None:
    class Doubled(DigitsEncoder):
        def __call__(self, prepared: Tensor) -> Tensor:
            return 2 * super().__call__(prepared)

    encoder = Doubled("digits-ijepa")
    with pytest.raises(BadInputError, match=r"linearised\(\) is not that of its __call__"):
        exact_scores(encoder, encoder.prepare(digits[:1]))


def _with_nulls(scale: float) -> tuple[Tensor, Tensor]:
    """A Jacobian `(1, 12, 40)` whose two declared null directions carry rows of this size."""
    generator = torch.Generator().manual_seed(2)
    jacobian = torch.randn(1, 12, 40, generator=generator, dtype=torch.float64)
    nulls = torch.linalg.qr(torch.randn(1, 12, 2, generator=generator, dtype=torch.float64)).Q
    along = nulls @ (nulls.transpose(1, 2) @ jacobian)
    return jacobian - along + scale * along, nulls


@pytest.mark.parametrize("scale", [1e-4, 1.0])
def test_whole_spectrum_with_declared_nulls_is_that_of_an_svd(scale: float) -> None:
    """Small null rows by their Schur complement; rows that are not null by the SVD."""
    jacobian, nulls = _with_nulls(scale)
    scores = scores_from_jacobian(jacobian, nulls)
    expected = torch.linalg.svdvals(jacobian).log().sum()
    assert abs(scores.reference[0] - expected) < 1e-9
    projected = jacobian - nulls @ (nulls.transpose(1, 2) @ jacobian)
    assert torch.allclose(scores.sigma, torch.linalg.svdvals(projected)[:, :10], rtol=1e-9)


MEMORY = """
import resource, torch, minoritybench
from minoritybench.scoring.vit.backward import _Scratch
from minoritybench.scoring.vit.linearised import token_blocks
torch.set_num_threads(1)
encoder = minoritybench.load_encoder("dinov2-vitl14", weights="random")
linear, prepared = encoder.linearised(), encoder.prepare(torch.rand(1, 3, 224, 224))
state = linear.at(prepared)
buffer = torch.empty(1, 257, 1024, 1024).fill_(1.0)
scratch = _Scratch(linear.weights, buffer)
for part in scratch._buffers:
    part.fill_(1.0)
identity = torch.eye(1024).unsqueeze(0)
linear.rows(state, identity[:, :32], out=buffer[:, :, :32])
rows = buffer[:, 1:, :, : linear.weights.patch_factor.shape[1]]
block = next(iter(token_blocks(rows)))
gram = block @ block.transpose(1, 2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)
"""


@pytest.mark.large
def test_vit_large_at_224_px_stays_below_6_gb() -> None:
    """Every buffer of a full score is there and touched, 32 of the 1024 rows are computed."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 6.0
