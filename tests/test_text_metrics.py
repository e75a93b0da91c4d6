"""What a benchmark's entry for a metric of image and prompt stands for."""

from __future__ import annotations

from typing import Any

import pytest
from toy_text import text_benchmark

from minoritybench.errors import BadInputError
from minoritybench.feature_metrics import board_metrics, chosen_metrics
from minoritybench.records import load_benchmark
from minoritybench.registry import entries
from minoritybench.text_metrics import TEXT_METRICS, text_choices


def test_a_name_alone_stands_for_the_published_model() -> None:
    spec = text_benchmark(
        "CLIPScore", "precision", {"metric": "CLIPScore", "name": "L", "model": "clip-l14"}, "PickScore"
    )
    assert [chosen.name for chosen in board_metrics(spec)] == ["CLIPScore", "precision", "L", "PickScore"]
    assert [chosen.name for chosen in chosen_metrics(spec)] == ["precision"]
    assert [choice.key for choice in text_choices(spec)] == [
        "text/CLIPScore/clip-b16",
        "text/CLIPScore/clip-l14",
        "text/PickScore/pickscore",
    ]
    assert set(TEXT_METRICS) <= set(entries("metrics"))


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (["CLIPScore", "CLIPScore"], "'CLIPScore' stands twice"),
        ([{"metric": "CLIPScore", "k": 3}], "takes a model, not features"),
        ([{"metric": "PickScore", "model": "clip-b16"}], "has one model, 'pickscore'"),
        ([{"metric": "precision", "model": "clip-b16"}], "takes features, not a model"),
    ],
)
def test_entries_that_cannot_be_are_one_line(metrics: list[Any], said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        board_metrics(text_benchmark(*metrics))


def test_the_shipped_clip_is_known_by_its_digest_and_opens_on_one_thread() -> None:
    (choice,) = text_choices(load_benchmark("digits-t2i"))
    scorer = choice.open("cpu")
    assert (choice.key, scorer.threads) == ("text/CLIPScore/digits-clip", 1)
    assert scorer.weights_sha256 == choice.known_digest()


def test_benchmarks_without_prompts_have_none() -> None:
    spec = load_benchmark("digits").model_copy(update={"metrics": text_benchmark("CLIPScore").metrics})
    with pytest.raises(BadInputError, match="compares images with prompts"):
        board_metrics(spec)
