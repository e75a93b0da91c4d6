"""Options of the Python functions: wrong names and unfit values are one line that names them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minoritybench
from minoritybench.errors import BadInputError
from minoritybench.rank_job import RankRequest
from minoritybench.request_options import build_request
from minoritybench.sample_job import SampleRequest


def sample(tmp_path: Path, **options: Any) -> None:
    minoritybench.sample("adm", tmp_path / "out", **options)


def evaluate(tmp_path: Path, **options: Any) -> None:
    minoritybench.evaluate("adm", **{"out": tmp_path / "out", **options})


def rank(tmp_path: Path, **options: Any) -> None:
    minoritybench.rank_dataset("digits", **{"out": tmp_path / "out", **options})


@pytest.mark.parametrize(
    ("call", "options", "message"),
    [
        (sample, {"sede": 3}, "no such option 'sede'; did you mean 'seeds'"),
        (sample, {"zzz": 3}, "no such option 'zzz'; known: benchmark, n, seeds"),
        (sample, {"n": "40"}, "option n='40': Input should be a valid integer"),
        (sample, {"n": 4.5}, "option n=4.5: Input should be a valid integer"),
        (sample, {"seeds": "x"}, "option seeds='x': "),
        (sample, {"seeds": [None]}, r"option seeds=\[None\]: "),
        (sample, {"settings": "eta=2"}, "option settings='eta=2': "),
        (sample, {"class_conditional": "yes"}, "option class_conditional='yes': Input should be a valid boolean"),
        (sample, {"benchmark": 3}, "option benchmark=3: Input should be a valid string"),
        (evaluate, {"judge": ["digits-ijepa"]}, "no such option 'judge'; did you mean 'judges'"),
        (evaluate, {"sede": 3}, "no such option 'sede'; did you mean 'seeds'"),
        (evaluate, {"n": "40"}, "option n='40'"),
        (evaluate, {"sample": 3}, "no such option 'sample'"),
        (evaluate, {"judges": 3}, "option judges=3: "),
        (evaluate, {"out": 3}, "option out=3: "),
        (evaluate, {"force": "no"}, "option force='no': Input should be a valid boolean"),
        (rank, {"per_clas": 3}, "no such option 'per_clas'; did you mean 'per_class'"),
        (rank, {"limit": "40"}, "option limit='40'"),
        (rank, {"shard_size": "8"}, "option shard_size='8'"),
        (rank, {"weights": "x\n" * 99, "split": 3}, "option split=3"),
    ],
)
def test_a_wrong_option_is_named_in_one_line(
    call: Callable[..., None], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match=message) as raised:
        call(tmp_path, **options)
    assert len(str(raised.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_what_requests_accept_beside_their_types_stays_accepted() -> None:
    drawn = build_request(SampleRequest, {"method": "jepa"}, {"seeds": 3, "settings": {"eta": 2}, "n": np.int64(40)})
    assert drawn == SampleRequest("jepa", seeds=(3,), settings=(("eta", 2),), n=40)
    assert type(drawn.n) is int
    ranked = build_request(RankRequest, {"dataset": "digits"}, {"keep": 375, "out": "there", "limit": np.int32(9)})
    assert ranked == RankRequest("digits", keep="375", out=Path("there"), limit=9)


def test_an_error_that_no_option_explains_stays_what_it_is() -> None:
    @dataclass(frozen=True)
    class Odd:
        a: int = 0
        b: int = 0

        def __post_init__(self) -> None:
            if self.a + self.b == 3:
                raise ValueError("three")

    with pytest.raises(ValueError, match="three"):
        build_request(Odd, {}, {"a": 1, "b": 2})
