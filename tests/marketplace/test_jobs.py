"""What a job keeps over pauses, stops and restarts, and requests as checked."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError
from marketplace.chat import parse_chat_request
from marketplace.engines.base import TokenChunk, TokenLogprob, allowed_streams
from marketplace.gateway.responses_api import _of_job
from marketplace.jobs import Job, StopMatcher
from marketplace.store.accounts import Principal
from marketplace.store.ledger import Outcome

REQUEST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def new_job(**parameters: Any) -> Job:
    request = parse_chat_request(REQUEST | parameters)
    return Job("sync", Principal("t", "k"), request, 0.0, 0.0, max_tokens=100)


@given(
    st.text("ab<>", max_size=30),
    st.lists(st.text("ab<>", min_size=1, max_size=4), min_size=1, max_size=4),
    st.lists(st.integers(1, 5), max_size=30),
)
def test_a_stop_sequence_cuts_alike_however_the_text_is_divided(
    text: str, stops: list[str], sizes: list[int]
) -> None:
    matcher, out, rest = StopMatcher(stops), "", text
    for size in [*sizes, 1000]:
        if matcher.matched:
            break
        out += matcher.feed(rest[:size])
        rest = rest[size:]
    # Whatever was delivered before the end must already be part of the answer.
    cuts = [text.find(stop) for stop in stops if stop in text]
    if matcher.matched:
        ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
        assert len(out) <= min(ends)
        assert text.startswith(out)
        assert not any(stop in out for stop in stops)
    else:
        assert not cuts
        assert out + matcher.flush() == text


def shown(job: Job) -> list[str]:
    return [token.text for token in job.answer_logprobs()]


def logprob(text: str, data: bytes | None = None) -> TokenLogprob:
    return TokenLogprob(text, text.encode() if data is None else data, -0.5)


def test_tokens_that_make_no_character_are_shown_with_the_others() -> None:
    # Two of the bytes are no text: what came for them is shorter, or longer, than they are.
    job = new_job(logprobs=True)
    job.begin_turn()
    job.record(TokenChunk("a", (1,), 1, logprobs=(logprob("a"),)))
    broken = tuple(logprob("\ufffd", b"\xf0\xf0\xf0\xf0") for _ in range(3))
    job.record(TokenChunk("?", (2, 3, 4), 4, logprobs=broken))
    assert shown(job) == ["a", *["\ufffd"] * 3]
    job.record(TokenChunk("b", (5,), 5, logprobs=(logprob("b"),)))
    assert shown(job)[-1] == "b"
    job.record(TokenChunk("", (6,), 6, "stop", logprobs=(logprob("<end>"),)))
    assert shown(job)[-1] == "b"


def test_tokens_that_a_stop_sequence_cut_off_are_not_shown() -> None:
    job = new_job(logprobs=True, stop="END")
    job.begin_turn()
    job.record(TokenChunk("one", (1,), 1, logprobs=(logprob("one"),)))
    job.record(TokenChunk(" two E", (2, 3), 3, logprobs=(logprob(" two"), logprob(" E"))))
    assert job.record(TokenChunk("ND", (4,), 4, logprobs=(logprob("ND"),)))
    assert (job.text, shown(job)) == ("one two ", ["one", " two", " E"])


def test_a_stop_sequence_is_found_over_a_pause() -> None:
    job = new_job(stop="END")
    job.begin_turn()
    job.record(TokenChunk("one E", (1, 2), 2))
    assert job.text == "one "
    job.pause()
    job.begin_turn()
    assert job.record(TokenChunk("ND two", (3, 4), 2))
    assert job.text == "one "
    assert job.tokens_lost() == 0


def test_tokens_that_vanish_after_a_pause_are_counted_as_lost() -> None:
    job = new_job()
    job.begin_turn()
    job.record(TokenChunk("a b c", (1, 2, 3), 3))
    job.pause()
    assert job.tokens_lost() == 0
    del job.token_ids[2]
    job.record(TokenChunk(" d", (4,), 1))
    assert job.tokens_lost() == 1
    job.token_ids[0] = 9
    assert job.tokens_lost() == 3


def test_tokens_the_engine_reported_but_nobody_recorded_are_counted_as_lost() -> None:
    job = new_job()
    job.begin_turn()
    job.record(TokenChunk("fox", (7,), 3))
    job.pause()
    assert job.tokens_lost() == 2


def test_text_that_changes_after_a_pause_counts_as_lost() -> None:
    job = new_job()
    job.begin_turn()
    job.record(TokenChunk("abc", (1,), 1))
    job.pause()
    job.text = "xyz"
    assert job.tokens_lost() == 1


def test_a_restored_job_goes_on_where_its_checkpoint_was() -> None:
    job = new_job(stop=["STOP"])
    job.restore([1, 2], "so farS", 1)
    assert (job.text, job.n_left) == ("so far", 98)
    job.begin_turn()
    assert job.record(TokenChunk("TOP", (3,), 1))
    assert job.text == "so far"
    assert job.tokens_lost() == 0


def test_a_sampled_answer_goes_on_with_another_seed_and_a_greedy_one_with_the_same() -> None:
    sampled = parse_chat_request(REQUEST | {"seed": 7})
    assert sampled.sampling(5, 0).seed == 7
    assert sampled.sampling(5, 2).seed != 7
    greedy = parse_chat_request(REQUEST | {"seed": 7, "temperature": 0})
    assert greedy.sampling(5, 2).seed == 7


@pytest.mark.parametrize(("sm_count", "streams"), [(0, 1), (16, 1), (60, 3), (64, 4), (132, 4)])
def test_a_lease_carries_one_request_for_every_16_sms(sm_count: int, streams: int) -> None:
    assert allowed_streams(sm_count, 16, 4) == streams


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": 1}, "logprobs"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ""}, "stop"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "body"),
        ({"temperature": float("nan")}, "body"),
        ({"flux_capacitor": 1}, "flux_capacitor"),
        ({"seed": 2**70}, "seed"),
    ],
)
def test_a_wrong_or_unsupported_parameter_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_chat_request(REQUEST | change)
    assert caught.value.field.startswith(field)


def test_harmless_parameters_are_taken() -> None:
    harmless = {"n": 1, "user": "u", "logprobs": False, "tools": None, "metadata": {"a": "b"}}
    request = parse_chat_request(
        REQUEST
        | harmless
        | {"max_completion_tokens": 9, "stop": "x", "response_format": {"type": "text"}}
        | {"messages": [{"role": "developer", "content": [{"type": "text", "text": "be kind"}]}]}
    )
    assert (request.max_tokens, request.stops) == (9, ("x",))
    assert request.messages == ({"role": "system", "content": "be kind"},)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=30)
@given(JSON_VALUES)
def test_no_json_value_breaks_the_check(values: Any) -> None:
    for body in (values, REQUEST | {"messages": values}, REQUEST | {"stop": values, "n": values}):
        with contextlib.suppress(InvalidInputError):
            assert parse_chat_request(body).messages


def test_a_json_answer_starts_over_after_a_pause_and_is_delivered_whole() -> None:
    job = new_job(response_format={"type": "json_object"})
    job.begin_turn()
    job.record(TokenChunk('{"a', (1, 2), 2))
    job.pause()
    assert job.n_left == job.max_tokens
    job.begin_turn()
    job.record(TokenChunk('{"b": 1}', (3, 4, 5), 3, "stop"))
    assert job.text == '{"b": 1}'
    assert job.tokens_lost() == 2
    while not job.feed.empty():
        assert not isinstance(job.feed.get_nowait(), str)


def test_a_response_whose_end_is_being_stored_is_not_done_yet() -> None:
    job = new_job()
    job.state, job.text = "completed", "All of it."
    document: dict[str, Any] = {"id": "resp_1", "created_s": 0.0, "background": True}
    document |= {"store": True, "service_tier": "default", "values": {"model": "m"}}
    shown = _of_job(document, job)
    assert (shown["status"], shown["usage"]) == ("in_progress", None)
    job.outcome = Outcome("completed", 3, 4)
    assert _of_job(document, job)["status"] == "completed"
