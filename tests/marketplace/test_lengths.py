"""What is left of an answer under way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.dispatch.lengths import AnswerLengths


def seen(*lengths: int) -> AnswerLengths:
    found = AnswerLengths()
    for length in lengths:
        found.note(length)
    return found


@pytest.mark.parametrize(
    ("n_tokens", "left"), [(0, 100), (50, 50), (99, 1), (100, 100), (250, 250)]
)
def test_where_all_were_alike_a_longer_one_is_half_over(n_tokens: int, left: int) -> None:
    assert seen(100, 100, 100).left(n_tokens) == left


def test_an_answer_past_the_short_ones_is_one_of_the_long_ones() -> None:
    lengths = seen(*[10] * 20, *[1000] * 20)
    assert [lengths.left(n_tokens) for n_tokens in (5, 10, 600)] == [500, 990, 400]


def test_old_answers_are_forgotten() -> None:
    lengths = seen(*[1000] * 100, *[20] * 64)
    assert (lengths.left(0), lengths.left(10)) == (20, 10)


def test_answers_that_were_cut_off_tell_nothing_of_longer_ones() -> None:
    lengths = AnswerLengths()
    for _ in range(20):
        lengths.note(10, was_cut=True)
        lengths.note(40, was_cut=True)
    # All of them went on as long as they might, and so will the next.
    assert [lengths.left(0, most) for most in (5, 30, 300)] == [5, 30, 300]
    for _ in range(20):
        lengths.note(20)
    # Of 40 that got as far as 20 tokens, half ended there.
    assert [lengths.left(0, most) for most in (10, 30, 60)] == [10, 25, 40]
    assert lengths.left(20, 300) == 300
    assert lengths.left(10) == 10 + 30


def test_a_mean_answer_is_no_measure_of_what_is_left_of_a_short_one() -> None:
    lengths = seen(*[10] * 30, *[90] * 30)
    assert [lengths.left(0, most) for most in (10, 50, 200)] == [10, 30, 50]


@given(st.lists(st.integers(0, 4000), min_size=1, max_size=100), st.integers(1, 8000))
def test_what_is_left_is_the_mean_of_what_longer_ones_had(
    lengths: list[int], n_tokens: int
) -> None:
    longer = [length - n_tokens for length in lengths[-64:] if length > n_tokens]
    wanted = sum(longer) / len(longer) if longer else n_tokens
    assert abs(seen(*lengths).left(n_tokens) - max(1, wanted)) <= 0.5


def test_an_answer_ends_as_soon_as_those_that_were_longer_did() -> None:
    lengths = seen(*[10] * 30, *[100] * 10)
    assert lengths.ends_within(0, 9) == 0.0
    assert lengths.ends_within(0, 10) == pytest.approx(0.75)
    assert lengths.ends_within(10, 50) == 0.0
    assert lengths.ends_within(10, 90) == 1.0
    # Longer than all: it may be over at any moment, up to twice as many again.
    assert [lengths.ends_within(100, more) for more in (50, 200, 900)] == [0.25, 1.0, 1.0]


@given(
    st.lists(st.integers(0, 4000), max_size=100),
    st.integers(0, 8000),
    st.floats(0, 8000),
    st.floats(0, 8000),
)
def test_the_more_tokens_the_more_answers_end(
    lengths: list[int], n_tokens: int, fewer: float, more: float
) -> None:
    found = seen(*lengths)
    chances = [found.ends_within(n_tokens, one) for one in sorted((fewer, more))]
    assert 0.0 <= chances[0] <= chances[1] <= 1.0
