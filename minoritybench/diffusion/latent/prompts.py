"""Prompts to what the U-Net attends to, by the pipeline's own tokenizers and text encoders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minoritybench.errors import BadInputError
from minoritybench.microbatch import pad_rows

POOLED = ("eos", "official")


@dataclass(frozen=True)
class TextTower:
    """A CLIP text encoder with its tokenizer."""

    tokenizer: Any
    encoder: Any

    @property
    def window(self) -> int:
        """Tokens of an encoded prompt, with the first and the last."""
        return int(min(self.tokenizer.model_max_length, self.encoder.config.max_position_embeddings))

    @property
    def table(self) -> Tensor:
        """Token vectors `(V, width)`."""
        weight: Tensor = self.encoder.get_input_embeddings().weight
        return weight

    def ids(self, prompts: Sequence[str]) -> Tensor:
        """int64 `(B, window)`: cut at the window with the last token kept, padded as the tokenizer does."""
        encoded = self.tokenizer(
            list(prompts), padding="max_length", max_length=self.window, truncation=True, return_tensors="pt"
        )
        ids: Tensor = encoded.input_ids
        return ids

    def ids_with_slot(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The same with room for one more token before the end token, for which a prompt that fills the window gives up
        its last: ids `(B, window)`, with the first token's id as filler, and the slot's position `(B,)`."""
        rows, slots = [], []
        for prompt in prompts:
            ids = self.tokenizer(prompt, truncation=True, max_length=self.window - 1).input_ids
            row = [*ids[:-1], self.tokenizer.bos_token_id, ids[-1]]
            rows.append(row + [self.tokenizer.pad_token_id] * (self.window - len(row)))
            slots.append(len(ids) - 1)
        return torch.tensor(rows), torch.tensor(slots)

    def word_vectors(self, word: str) -> Tensor:
        """Rows of the table that a word is made of, `(tokens, width)`."""
        ids = self.tokenizer(word, add_special_tokens=False).input_ids
        if not ids:
            raise BadInputError(f"initial token {word!r}: no word of the tokenizer in it; write a word, or mean")
        return self.table[torch.tensor(ids, device=self.table.device)]


@dataclass(frozen=True)
class PromptEncoder:
    """One tower as Stable Diffusion has it, or SDXL's two; `rows` prompts are encoded a call, None for all of them."""

    towers: tuple[TextTower, ...]
    rows: int | None

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the token vectors of each tower."""
        return tuple(tower.table.shape[1] for tower in self.towers)

    def encode(
        self, prompts: Sequence[str], learned: Sequence[Tensor] | None = None, pooled: str = "eos"
    ) -> tuple[Tensor, Tensor | None]:
        """Hidden states `(B, L, D)` and, of two towers, the second's pooled embedding `(B, P)`.

        `learned`, `(B, width)` a tower, stands as one more token after each prompt. A prompt's result does not depend
        on the others: rows run in blocks of one size. Differentiable in `learned`.
        """
        size = self.rows or len(prompts)
        blocks = []
        for start in range(0, len(prompts), size):
            block = list(prompts[start : start + size])
            padded = block + block[:1] * (size - len(block))
            vectors = None if learned is None else [pad_rows(part[start : start + size], size) for part in learned]
            hidden, pool = self._block(padded, vectors, pooled)
            blocks.append((hidden[: len(block)], None if pool is None else pool[: len(block)]))
        pools = [pool for _, pool in blocks if pool is not None]
        return torch.cat([hidden for hidden, _ in blocks]), torch.cat(pools) if pools else None

    def start(self, kind: str) -> list[Tensor]:
        """A vector a tower, `(width,)`: the mean row of the table for `mean`, else the mean of a word's rows."""
        rows = [tower.table if kind == "mean" else tower.word_vectors(kind) for tower in self.towers]
        return [part.detach().mean(dim=0) for part in rows]

    def _block(self, prompts: list[str], learned: list[Tensor] | None, pooled: str) -> tuple[Tensor, Tensor | None]:
        states, pool = [], None
        for number, tower in enumerate(self.towers):
            device = tower.table.device
            if learned is None:
                output, slots = _hidden(tower, tower.ids(prompts).to(device)), None
            else:
                ids, slots = (part.to(device) for part in tower.ids_with_slot(prompts))
                with _token_replaced(tower.encoder.get_input_embeddings(), slots, learned[number]):
                    output = _hidden(tower, ids)
            if len(self.towers) == 1:
                return output.last_hidden_state, None
            states.append(output.hidden_states[-2])
            pool = getattr(output, "text_embeds", None) if slots is None else _pooled_at(tower, output, slots, pooled)
        return torch.cat(states, dim=-1), pool


def _hidden(tower: TextTower, ids: Tensor) -> Any:
    return tower.encoder(ids, output_hidden_states=True)


def _pooled_at(tower: TextTower, output: Any, slots: Tensor, pooled: str) -> Tensor | None:
    """The projected last state at the end token, or with `official` at the learned one, where published code reads it:
    its added id is the largest of the prompt."""
    projection = getattr(tower.encoder, "text_projection", None)
    if projection is None:
        return None
    rows = torch.arange(len(slots), device=slots.device)
    result: Tensor = projection(output.last_hidden_state[rows, slots + (pooled == "eos")])
    return result


@contextmanager
def _token_replaced(embedding: nn.Module, slots: Tensor, vectors: Tensor) -> Iterator[None]:
    """While open, the looked-up vector of row b at position `slots[b]` is `vectors[b]`; the table stays as it is."""

    def replace(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        here = torch.arange(output.shape[1], device=output.device) == slots[:, None]
        return torch.where(here[:, :, None], vectors[:, None].to(output), output)

    handle = embedding.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
