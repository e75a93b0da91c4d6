"""A CLIP tokenizer whose merges make every word of the captions one token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minoritybench.embedded.captions import VOCABULARY
from minoritybench.store import pretty_json, write_text

MAX_LENGTH = 16
START, END = "<|startoftext|>", "<|endoftext|>"
_END_OF_WORD = "</w>"

Pair = tuple[str, str]


def merges_for(words: Sequence[str]) -> list[Pair]:
    """Byte pair merges, in order of priority, after which each word is a single token.

    A word takes what earlier words left and then joins its first two tokens until one is left. Later merges have lower
    priority, and so cannot disturb the words before.
    """
    merges: list[Pair] = []
    for word in words:
        tokens = split(word, merges)
        while len(tokens) > 1:
            merges.append((tokens[0], tokens[1]))
            tokens = split(word, merges)
    return merges


def split(word: str, merges: Sequence[Pair]) -> list[str]:
    """The tokens of a word under byte pair encoding."""
    tokens = [*word[:-1], word[-1] + _END_OF_WORD]
    rank = {pair: number for number, pair in enumerate(merges)}
    while True:
        pairs = [(tokens[i], tokens[i + 1]) for i in range(len(tokens) - 1)]
        known = [pair for pair in pairs if pair in rank]
        if not known:
            return tokens
        best = min(known, key=rank.__getitem__)
        at = pairs.index(best)
        tokens[at : at + 2] = ["".join(best)]


def vocabulary(merges: Sequence[Pair]) -> dict[str, int]:
    """Token ids in CLIP's order: bytes, bytes that end a word, merges, start, end."""
    symbols = _byte_symbols()
    names = [*symbols, *(symbol + _END_OF_WORD for symbol in symbols), *("".join(pair) for pair in merges), START, END]
    return {name: number for number, name in enumerate(names)}


def vocabulary_size() -> int:
    """How many tokens the embedded tokenizer knows; the last two are start and end."""
    return len(vocabulary(merges_for(VOCABULARY)))


def write_tokenizer(folder: Path) -> None:
    """The three files that `CLIPTokenizer.from_pretrained(folder)` reads, with Stable Diffusion's settings."""
    merges = merges_for(VOCABULARY)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "vocab.json", pretty_json(vocabulary(merges)))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    write_text(folder / "merges.txt", "\n".join(lines) + "\n")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_LENGTH,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
    }
    write_text(folder / "tokenizer_config.json", pretty_json(settings))


def caption_ids(texts: Sequence[str]) -> list[list[int]]:
    """What the written tokenizer makes of captions, padded to `MAX_LENGTH`; words of the vocabulary only."""
    ids = vocabulary(merges_for(VOCABULARY))
    rows = [[ids[START], *(ids[word + _END_OF_WORD] for word in text.split())] for text in texts]
    return [row + [ids[END]] * (MAX_LENGTH - len(row)) for row in rows]


def _byte_symbols() -> list[str]:
    """The printable stand-ins of the 256 bytes, as GPT-2 and CLIP order them: printable bytes first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    return [chr(code) for code in printable] + [chr(256 + n) for n in range(256 - len(printable))]
