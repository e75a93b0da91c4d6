"""Exact JEPA-SCORE against closed forms and torch.autograd.functional.jacobian in float64."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from toy_encoders import LayerNormEncoder, PlainEncoder

import minoritybench
from minoritybench.encoders.base import null_basis
from minoritybench.errors import BadInputError
from minoritybench.scoring import exact_scores, spectrum
from minoritybench.scoring.jacobian import JacobianGraph
from minoritybench.scoring.spectrum import scores_from_jacobian, singular_values


def reference_sigma(encoder: PlainEncoder, image: Tensor) -> Tensor:
    jacobian = torch.autograd.functional.jacobian(lambda x: encoder(x.unsqueeze(0))[0], image)
    return torch.linalg.svdvals(jacobian.flatten(1))


def linear_encoder(matrix: Tensor) -> PlainEncoder:
    return PlainEncoder(lambda x: x.flatten(1) @ matrix.T)


def test_prescribed_spectrum_gives_sum_of_logs() -> None:
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(12, 6, generator=generator, dtype=torch.float64)).Q
    sigma = torch.tensor([9.0, 4.0, 1.0, 0.5, 0.1, 0.01], dtype=torch.float64)
    images = torch.rand(3, 3, 2, 2, dtype=torch.float64, generator=generator)
    scores = minoritybench.jepa_score(linear_encoder(left * sigma @ right.T), images)
    assert scores.dtype == torch.float64
    assert torch.allclose(scores, sigma.log().sum().expand(3), atol=1e-10)


def test_full_rank_encoder_agrees_with_functional_jacobian() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.GELU(), nn.Linear(32, 10)).double().requires_grad_(False)
    encoder = PlainEncoder(net)
    images = torch.rand(11, 3, 4, 4, dtype=torch.float64)
    expected = torch.stack([reference_sigma(encoder, image).log().sum() for image in images])
    for mode in ("deflated", "reference"):
        assert torch.allclose(minoritybench.jepa_score(encoder, images, mode=mode), expected, atol=1e-6)


def test_layer_norm_head_is_deflated_by_its_two_null_directions() -> None:
    encoder = LayerNormEncoder(48, 16)
    images = torch.rand(5, 3, 4, 4, dtype=torch.float64)
    scores = exact_scores(encoder, images)
    for row, image in enumerate(images):
        sigma = reference_sigma(encoder, image)
        assert sigma[-1] < 1e-12
        assert sigma[-3] > 1e-4
        assert abs(scores.deflated[row] - sigma[:-2].log().sum()) < 1e-3
        assert abs(scores.reference[row] - sigma.clamp_min(1e-6).log().sum()) < 1e-3
    assert scores.sigma.shape == (5, 14)
    assert not scores.rank_deficit.any()


def test_deflated_score_scales_with_the_rank_without_nulls() -> None:
    encoder = LayerNormEncoder(48, 16)
    scaled = LayerNormEncoder(48, 16)
    scaled.function = lambda x: 3.0 * encoder(x)
    scaled.null_directions = lambda z: encoder.null_directions(z / 3.0)  # type: ignore[method-assign]
    images = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    gain = minoritybench.jepa_score(scaled, images) - minoritybench.jepa_score(encoder, images)
    assert torch.allclose(gain, torch.full((2,), 14 * math.log(3.0), dtype=torch.float64), atol=1e-6)


def test_dead_units_count_as_rank_deficit_and_clamp() -> None:
    matrix = torch.diag(torch.tensor([100.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    matrix = torch.cat([matrix, torch.zeros(4, 8, dtype=torch.float64)], dim=1)
    scores = exact_scores(linear_encoder(matrix), torch.rand(2, 3, 2, 2, dtype=torch.float64))
    assert scores.rank_deficit.tolist() == [2, 2]
    assert torch.allclose(scores.reference, torch.full((2,), math.log(100) + 2 * math.log(1e-6), dtype=torch.float64))


def test_wide_spectrum_keeps_digits_that_a_gram_matrix_loses() -> None:
    sigma = torch.tensor([1e4, 1.0, 3e-6], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    left = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(12, 3, generator=generator, dtype=torch.float64)).Q
    found = singular_values((left * sigma @ right.T).unsqueeze(0))[0]
    assert torch.allclose(found.log(), sigma.log(), atol=1e-3)


def test_more_outputs_than_inputs_keeps_all_input_directions() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(20, 12, dtype=torch.float64)
    encoder = linear_encoder(matrix)
    null = torch.randn(20, 1, dtype=torch.float64)
    encoder.null_directions = lambda z: null.expand(len(z), -1, -1)  # type: ignore[attr-defined]
    scores = exact_scores(encoder, torch.rand(1, 3, 2, 2, dtype=torch.float64))
    assert scores.sigma.shape == (1, 12)


def test_undefined_jacobian_gives_nan_for_that_image_only() -> None:
    encoder = PlainEncoder(lambda x: (x.flatten(1) - 0.5).sqrt())
    images = torch.full((2, 3, 1, 1), 0.75, dtype=torch.float64)
    images[1] = 0.25
    scores = minoritybench.jepa_score(encoder, images)
    assert scores[0].isfinite()
    assert scores[1].isnan()


@pytest.mark.parametrize("name", ["digits-jepa", "digits-ijepa", "digits-vicreg"])
def test_scores_are_bitwise_independent_of_batch_and_position(name: str, digits: Tensor) -> None:
    encoder = minoritybench.load_encoder(name)
    images = digits[:70]
    whole = minoritybench.jepa_score(encoder, images)
    alone = torch.cat([minoritybench.jepa_score(encoder, images[i : i + 1]) for i in (0, 33, 69)])
    sevens = torch.cat([minoritybench.jepa_score(encoder, images[i : i + 7]) for i in range(0, 70, 7)])
    assert torch.equal(alone, whole[[0, 33, 69]])
    assert torch.equal(sevens, whole)
    assert torch.equal(minoritybench.jepa_score(encoder, images.flip(0)), whole.flip(0))


@pytest.mark.parametrize(("name", "nulls"), [("digits-jepa", 1), ("digits-ijepa", 0), ("digits-vicreg", 0)])
def test_shipped_encoders_agree_with_float64_svd(name: str, nulls: int, digits: Tensor) -> None:
    encoder = minoritybench.load_encoder(name)
    double = minoritybench.load_encoder(name, dtype="float64")
    images = digits[:3]
    scores = minoritybench.jepa_score(encoder, images)
    for score, prepared in zip(scores, double.prepare(images), strict=True):
        sigma = reference_sigma(PlainEncoder(double), prepared)
        kept = sigma[: len(sigma) - nulls]
        assert abs(score - kept.log().sum()) < 1e-3


def test_null_directions_of_the_wrong_shape_are_named() -> None:
    encoder = linear_encoder(torch.eye(12, dtype=torch.float64))
    encoder.null_directions = lambda z: z  # type: ignore[attr-defined]
    with pytest.raises(BadInputError, match="null_directions must return"):
        minoritybench.jepa_score(encoder, torch.rand(1, 3, 2, 2, dtype=torch.float64))


@pytest.mark.parametrize("case", ["twice", "zero", "in the span", "as many as there are"])
def test_dependent_null_directions_are_refused(case: str) -> None:
    encoder = LayerNormEncoder(27, 12)
    true = encoder.null_directions

    def declared(z: Tensor) -> Tensor:
        columns = true(z)
        if case == "as many as there are":
            return torch.eye(12, dtype=z.dtype).expand(len(z), -1, -1)
        more = {"twice": 2 * columns[..., :1], "zero": 0 * columns[..., :1], "in the span": columns.sum(-1, True)}[case]
        return torch.cat([columns, more], dim=-1)

    encoder.null_directions = declared  # type: ignore[method-assign]
    with pytest.raises(BadInputError, match=r"LayerNormEncoder\.null_directions"):
        minoritybench.jepa_score(encoder, torch.rand(2, 3, 3, 3, dtype=torch.float64))


def test_long_and_short_null_directions_are_taken() -> None:
    encoder, scaled = LayerNormEncoder(27, 12), LayerNormEncoder(27, 12)
    lengths = torch.tensor([1e8, 1e-8], dtype=torch.float64)
    scaled.null_directions = lambda z: encoder.null_directions(z) * lengths  # type: ignore[method-assign]
    images = torch.rand(2, 3, 3, 3, dtype=torch.float64)
    scores = [minoritybench.jepa_score(each, images) for each in (encoder, scaled)]
    assert torch.allclose(*scores, atol=1e-9)


@pytest.mark.parametrize("estimator", ["exact", "rsvd"])
def test_undefined_null_directions_give_nan_for_that_image_only(estimator: Literal["exact", "rsvd"]) -> None:
    encoder = LayerNormEncoder(27, 12)
    images = torch.rand(3, 3, 3, 3, dtype=torch.float64)
    expected = minoritybench.jepa_score(encoder, images, estimator)
    true, spoilt = encoder.null_directions, encoder(images)[1]

    def declared(z: Tensor) -> Tensor:
        hit = torch.isclose(z, spoilt).all(dim=1).view(-1, 1, 1)
        return torch.where(hit, torch.inf, true(z))

    encoder.null_directions = declared  # type: ignore[method-assign]
    scores = minoritybench.jepa_score(encoder, images, estimator)
    assert scores[1].isnan()
    assert torch.equal(scores[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("side", [2, 3])
def test_null_directions_that_are_none_are_left_out_and_told_once(side: int, caplog: pytest.LogCaptureFixture) -> None:
    sigma = torch.linspace(1.0, 2.0, 12 if side == 2 else 20, dtype=torch.float64)
    matrix = torch.diag(sigma) if side == 3 else torch.cat([torch.diag(sigma), torch.zeros(4, 12)]).double()
    matrix = torch.nn.functional.pad(matrix, (0, 3 * side**2 - matrix.shape[1]))
    encoder = linear_encoder(matrix)
    first = torch.eye(len(matrix), 1, dtype=torch.float64)
    encoder.null_directions = lambda z: first.expand(len(z), -1, -1)  # type: ignore[attr-defined]
    spectrum._warn_of_false_nulls.cache_clear()
    scores = exact_scores(encoder, torch.rand(3, 3, side, side, dtype=torch.float64))
    assert [record.message.partition(":")[0] for record in caplog.records] == ["declared null directions are none"]
    assert torch.allclose(scores.sigma[:, : len(sigma) - 1], sigma[1:].flip(0))
    assert torch.allclose(scores.reference, sigma.log().sum())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["digits-jepa", "digits-ijepa"])
def test_true_null_directions_pass_in_any_precision(
    name: str, dtype: str, digits: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    spectrum._warn_of_false_nulls.cache_clear()
    minoritybench.jepa_score(minoritybench.load_encoder(name, dtype=dtype), digits[:4])
    assert not caplog.records


@pytest.mark.parametrize("estimator", ["exact", "rsvd"])
def test_an_encoder_without_a_gradient_is_named(estimator: Literal["exact", "rsvd"]) -> None:
    encoder = PlainEncoder(torch.no_grad()(lambda x: x.flatten(1) ** 2))
    with pytest.raises(BadInputError, match=r"PlainEncoder: .*must be differentiable \(no torch.no_grad"):
        minoritybench.jepa_score(encoder, torch.rand(2, 3, 2, 2), estimator)


def test_unknown_mode_and_estimator_are_refused() -> None:
    encoder = linear_encoder(torch.eye(12, dtype=torch.float64))
    images = torch.rand(1, 3, 2, 2, dtype=torch.float64)
    with pytest.raises(BadInputError, match="mode"):
        minoritybench.jepa_score(encoder, images, mode="raw")  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="estimator"):
        minoritybench.jepa_score(encoder, images, estimator="magic")  # type: ignore[arg-type]


def test_reference_score_of_a_null_headed_encoder_is_that_of_an_svd() -> None:
    """The two tiny values of a LayerNorm head come from its null rows, not from the whole Gram matrix."""
    encoder = LayerNormEncoder(27, 12)
    graph = JacobianGraph(encoder, torch.rand(5, 3, 3, 3, dtype=torch.float64, generator=torch.manual_seed(0)))
    jacobian = graph.rows()
    for rows in (jacobian, jacobian.float()):  # float32 rows: the null values are rounding, and an SVD sees the same
        scores = scores_from_jacobian(rows, null_basis(encoder, graph.z))
        expected = torch.linalg.svdvals(rows.double()).clamp_min(1e-6).log().sum(dim=1)
        assert (scores.reference - expected).abs().max() < 1e-6


def test_whole_number_images_are_refused() -> None:
    with pytest.raises(BadInputError, match="divide 8-bit images by 255"):
        minoritybench.jepa_score(PlainEncoder(lambda x: x), torch.zeros(1, 3, 2, 2, dtype=torch.uint8))


def test_a_cascade_asked_for_scores_gives_the_exact_ones(digits: Tensor) -> None:
    encoder = minoritybench.load_encoder("digits-jepa")
    exact = minoritybench.jepa_score(encoder, digits[:5])
    assert torch.equal(minoritybench.jepa_score(encoder, digits[:5], estimator="cascade"), exact)


def test_one_image_without_its_batch_axis_is_told() -> None:
    with pytest.raises(BadInputError, match="a batch of one"):
        minoritybench.jepa_score(PlainEncoder(lambda x: x), torch.zeros(3, 2, 2))
