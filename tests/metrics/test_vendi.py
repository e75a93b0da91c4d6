"""Vendi score against closed forms and the whole similarity matrix."""

from __future__ import annotations

import numpy as np
import pytest

from minoritybench.errors import BadInputError
from minoritybench.metrics import vendi_score

MODES = np.repeat(np.eye(4)[:2], [75, 25], axis=0) * 3.0


@pytest.mark.parametrize("q", [0.1, 1.0, 2.0, np.inf])
def test_copies_are_one_and_orthogonal_samples_their_number(q: float) -> None:
    assert vendi_score(fake=np.ones((50, 3)), q=q).value == pytest.approx(1.0, rel=1e-9)
    assert vendi_score(fake=np.eye(8), q=q).value == pytest.approx(8.0, rel=1e-9)


@pytest.mark.parametrize(
    ("q", "expected"), [(1.0, 1.754765350603323), (2.0, 1 / 0.625), (0.5, (0.75**0.5 + 0.5) ** 2), (np.inf, 4 / 3)]
)
def test_two_modes(q: float, expected: float) -> None:
    assert vendi_score(fake=MODES, q=q).value == pytest.approx(expected, rel=1e-9)


def test_both_forms_agree() -> None:
    """More rows than columns go the D x D way; the same rows with columns of zeros the n x n way."""
    rows = np.random.default_rng(0).normal(size=(60, 10)).astype(np.float32)
    wide = np.concatenate([rows, np.zeros((60, 90), dtype=np.float32)], axis=1)
    assert vendi_score(fake=rows).value == pytest.approx(vendi_score(fake=wide).value, rel=1e-9)
    assert 1 < vendi_score(fake=rows, q=2).value < vendi_score(fake=rows).value < 10


def test_what_has_no_direction_or_order_is_refused() -> None:
    with pytest.raises(BadInputError, match="rows of zeros"):
        vendi_score(fake=np.zeros((3, 2)))
    with pytest.raises(BadInputError, match="q must be above 0"):
        vendi_score(fake=np.ones((3, 2)), q=0)
