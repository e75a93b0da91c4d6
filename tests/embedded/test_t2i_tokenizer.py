"""The embedded tokenizer: one token a word, readable by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minoritybench.embedded.captions import VOCABULARY, all_captions
from minoritybench.embedded.t2i.tokenizer import (
    MAX_LENGTH,
    caption_ids,
    merges_for,
    split,
    vocabulary_size,
    write_tokenizer,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import CLIPTokenizer

    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def test_merges_join_words_that_share_beginnings() -> None:
    words = ["slanted", "slant", "slants", "ant"]
    merges = merges_for(words)
    assert [split(word, merges) for word in words] == [[f"{word}</w>"] for word in words]
    assert split("slat", merges) == ["sla", "t</w>"]


def test_each_word_is_one_token(tokenizer: Any) -> None:
    assert len(tokenizer) == vocabulary_size()
    for word in VOCABULARY:
        start, token, end = tokenizer(word).input_ids
        assert (start, end) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert tokenizer.convert_ids_to_tokens(token) == f"{word}</w>"


def test_no_caption_is_cut_and_training_saw_the_same_ids(tokenizer: Any) -> None:
    texts = ["", *all_captions()]
    assert max(len(ids) for ids in tokenizer(texts).input_ids) <= 7 < tokenizer.model_max_length == MAX_LENGTH
    padded = tokenizer(texts, padding="max_length", max_length=MAX_LENGTH, truncation=True)
    assert padded.input_ids == caption_ids(texts)


def test_other_words_still_have_tokens(tokenizer: Any) -> None:
    assert tokenizer.unk_token_id not in tokenizer("Crooked 7s, naïve!").input_ids[1:-1]
