"""Learned tokens: where they stand, what they change, and their gradient."""

from __future__ import annotations

import pytest
import torch
from tiny_pipelines import TOKENS, tiny_sd, tiny_sdxl

from minoritybench.diffusion.latent.loading import load_latent
from minoritybench.diffusion.latent.model import LatentModel
from minoritybench.errors import BadInputError

FULL = "abcdefghijklmnop"  # more than the window holds
KINDS = pytest.mark.parametrize("kind", ["sd", "sdxl"])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LatentModel]:
    """In float64."""
    root = tmp_path_factory.mktemp("pipelines")
    folders = {"sd": tiny_sd(root / "sd"), "sdxl": tiny_sdxl(root / "sdxl")}
    return {kind: load_latent(f"latent:{folder}", dtype="float64") for kind, folder in folders.items()}


def tokens(model: LatentModel, batch: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, width, dtype=torch.float64, generator=generator) for width in model.token_widths]


@KINDS
def test_a_learned_token_with_the_vectors_of_a_letter_is_that_letter(models: dict[str, LatentModel], kind: str) -> None:
    """The token of " x" after a prompt and the letter's own row in its place encode alike, pooled at the end token."""
    model = models[kind]
    learned = [row.expand(2, -1) for row in model.token_start("x")]
    found = model.embed_tokens(["a cat", "it"], learned)
    expected = model.embed_tokens(["a cat x", "it x"], None)
    torch.testing.assert_close(found.embeds, expected.embeds, rtol=0, atol=1e-12)
    if kind == "sdxl":
        torch.testing.assert_close(found.pooled, expected.pooled, rtol=0, atol=1e-12)
    assert (found.unconditional, found.prompts) == (None, ("a cat", "it"))


@KINDS
def test_a_prompt_that_fills_the_window_gives_up_its_last_token(models: dict[str, LatentModel], kind: str) -> None:
    for tower in models[kind]._prompts.towers:
        ids, slots = tower.ids_with_slot([FULL, "ab"])
        plain = tower.ids([FULL, "ab"])
        end = tower.tokenizer.eos_token_id
        assert slots.tolist() == [TOKENS - 2, 3]
        assert ids.shape == (2, TOKENS)
        assert torch.equal(ids[0, : TOKENS - 2], plain[0, : TOKENS - 2])
        assert [int(ids[row, slot + 1]) for row, slot in enumerate(slots)] == [end, end]
        assert torch.equal(ids[1, 5:], plain[1, 5:])  # padded alike
    learned = [part.requires_grad_() for part in tokens(models[kind], 1)]
    gradients = torch.autograd.grad(models[kind].embed_tokens([FULL], learned).embeds.square().sum(), learned)
    assert all(gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize("pooled", ["eos", "official"])
@KINDS
def test_gradient_of_a_learned_token_against_differences(
    models: dict[str, LatentModel], kind: str, pooled: str
) -> None:
    model, prompts, x = models[kind], ["a cat", FULL], torch.ones(2, 4, 8, 8, dtype=torch.float64)

    def loss(learned: list[torch.Tensor]) -> torch.Tensor:
        condition = model.embed_tokens(prompts, learned, pooled=pooled)
        return model.predict(x, torch.tensor([500, 500]), condition).square().sum()

    learned, direction = [part.requires_grad_() for part in tokens(model, 2)], tokens(model, 2, seed=1)
    gradients = torch.autograd.grad(loss(learned), learned)
    slope = sum(float((part * way).sum()) for part, way in zip(gradients, direction, strict=True))
    h = 1e-5
    with torch.no_grad():
        ahead, behind = (
            float(loss([part + step * way for part, way in zip(learned, direction, strict=True)])) for step in (h, -h)
        )
    assert slope == pytest.approx((ahead - behind) / (2 * h), rel=1e-5)


def test_official_pooling_reads_the_learned_token(models: dict[str, LatentModel]) -> None:
    """CLIP is causal: with the end token's own vector the state there is that of the end of the plain prompt."""
    model = models["sdxl"]
    ends = [tower.table[tower.tokenizer.eos_token_id][None] for tower in model._prompts.towers]
    plain = model.encode_prompts(["a cat"], 1.0).pooled
    torch.testing.assert_close(model.embed_tokens(["a cat"], ends, pooled="official").pooled, plain, rtol=0, atol=1e-12)
    assert not torch.allclose(model.embed_tokens(["a cat"], ends).pooled, plain, atol=1e-3)


@KINDS
def test_tokenizer_and_tables_stay_as_they_are(models: dict[str, LatentModel], kind: str) -> None:
    model = models[kind]
    before = [(tower.table.clone(), len(tower.tokenizer)) for tower in model._prompts.towers]
    plain = model.embed_tokens(["a cat"], None)
    learned = [part.requires_grad_() for part in tokens(model, 1)]
    torch.autograd.grad(model.embed_tokens(["a cat"], learned).embeds.sum(), learned)
    assert torch.equal(model.embed_tokens(["a cat"], None).embeds, plain.embeds)
    assert torch.equal(model.encode_prompts(["a cat"], 1.0).embeds, plain.embeds)
    for tower, (table, size) in zip(model._prompts.towers, before, strict=True):
        assert torch.equal(tower.table, table)
        assert len(tower.tokenizer) == size
        assert all(parameter.grad is None for parameter in tower.encoder.parameters())


@KINDS
def test_a_token_belongs_to_its_own_prompt(models: dict[str, LatentModel], kind: str) -> None:
    model = models[kind]
    learned = tokens(model, 3)
    together = model.embed_tokens(["a", "b", FULL], learned)
    alone = model.embed_tokens(["b"], [part[1:2] for part in learned])
    assert torch.equal(together.embeds[1], alone.embeds[0])


@KINDS
def test_starts(models: dict[str, LatentModel], kind: str) -> None:
    model = models[kind]
    tables = [tower.table for tower in model._prompts.towers]
    for mean, word, table in zip(model.token_start("mean"), model.token_start("ab"), tables, strict=True):
        torch.testing.assert_close(mean, table.mean(dim=0))
        first, last = (model._prompts.towers[0].tokenizer.convert_tokens_to_ids(t) for t in ("a", "b</w>"))
        torch.testing.assert_close(word, (table[first] + table[last]) / 2)
        assert not mean.requires_grad
    with pytest.raises(BadInputError, match="no word of the tokenizer"):
        model.token_start(" ")


def test_tokens_of_another_width_are_refused(models: dict[str, LatentModel]) -> None:
    with pytest.raises(BadInputError, match=r"its encoders take \[\(1, 32\), \(1, 40\)\]"):
        models["sdxl"].embed_tokens(["a"], tokens(models["sd"], 1))
    with pytest.raises(BadInputError, match="pooled 'start'"):
        models["sdxl"].embed_tokens(["a"], tokens(models["sdxl"], 1), pooled="start")
