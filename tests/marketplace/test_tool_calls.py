"""Function calls in the forms that models write them, over any division into pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.engines.calls import CallsAsText
from marketplace.tool_calls import Answer, Called, ToolReader, gather, read_answer
from marketplace.tools import parse_tools

TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("sum", "get_weather")
]
USE = parse_tools(TOOLS, None, None, None)
ONE = parse_tools(TOOLS, None, False, None)
ARGUMENTS = '{"city": "Par}is \\"x\\"", "n": [1, {"a": "\\\\"}]}'
HERMES = f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
LLAMA = f'{{"name": "get_weather", "parameters": {ARGUMENTS}}}'
CALLS = {
    "hermes": HERMES,
    "hermes of no spaces": HERMES.replace("\n", ""),
    "hermes that ends early": HERMES.removesuffix("\n</tool_call>"),
    "llama 3": LLAMA,
    "llama 3 with a type": LLAMA.replace('{"name"', '{"type": "function", "name"', 1),
    "llama 3 in python": f"<|python_tag|>{LLAMA}",
    "another order": f'<tool_call>{{"arguments": {ARGUMENTS}, "name": "get_weather"}}</tool_call>',
}


def shape(answer: Answer) -> tuple[str, list[tuple[str, Any]]]:
    return answer.content, [(call.name, json.loads(call.arguments)) for call in answer.calls]


@pytest.mark.parametrize("form", CALLS)
def test_a_call_is_read_in_every_form(form: str) -> None:
    answer = read_answer(CALLS[form], USE, "seed")
    assert shape(answer) == ("", [("get_weather", json.loads(ARGUMENTS))])


def test_text_before_a_call_and_several_calls_are_told_apart() -> None:
    two = f"Let me see.\n{HERMES}\n" + '<tool_call>\n{"name": "sum", "arguments": {}}\n</tool_call>'
    answer = read_answer(two, USE, "seed")
    assert answer.content == "Let me see."
    assert [call.name for call in answer.calls] == ["get_weather", "sum"]
    assert len({call.id for call in answer.calls}) == 2
    several = read_answer(f"{LLAMA}; {LLAMA}", USE, "seed")
    assert [call.name for call in several.calls] == ["get_weather"] * 2
    assert len(read_answer(two, ONE, "seed").calls) == 1


@pytest.mark.parametrize(
    "text",
    [
        "No call at all.",
        "  spaces  ",
        '{"name": "unknown", "arguments": {}}',
        '{"a": 1} and more',
        "{ no JSON",
        "[1, 2]",
        "a < b and <tool",
        "<tool_call>",
        "<tool_call>none</tool_call>",
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "sum", "arg',
        "\x1e\x1f",
        "x \x1e{}\x1f",
        "",
    ],
)
def test_what_is_no_call_stays_text(text: str) -> None:
    answer = read_answer(text, USE, "seed")
    assert (answer.content, answer.calls) == (text, [])


@given(
    st.lists(
        st.sampled_from(
            [*CALLS.values(), "text ", "<tool", "{", "}", "\n", '"', ";", "\x1e", "\x1f"]
        ),
        max_size=5,
    ),
    st.lists(st.integers(1, 9), min_size=1),
)
def test_any_division_reads_the_same(parts: list[str], steps: list[int]) -> None:
    text = "".join(parts)
    assert USE is not None
    reader, events, at, turn = ToolReader(USE, "seed"), [], 0, 0
    while at < len(text):
        step = steps[turn % len(steps)]
        events += reader.feed(text[at : at + step])
        at, turn = at + step, turn + 1
    events += reader.end()
    assert gather(events, Answer()) == read_answer(text, USE, "seed")


def test_the_name_comes_first_and_the_arguments_in_pieces() -> None:
    assert USE is not None
    reader = ToolReader(USE, "seed")
    head, rest = HERMES[:54], HERMES[54:]
    first = reader.feed(head)
    assert isinstance(first[0], Called)
    assert first[0].name == "get_weather"
    assert sum(len(reader.feed(letter)) for letter in rest) > 10


@given(st.text(), st.text(), st.text())
def test_what_a_server_reports_is_read_as_it_said_it(said: str, arguments: str, other: str) -> None:
    plain = str.maketrans("", "", "\x1e\x1f")
    writer = CallsAsText()
    deltas: list[dict[str, Any]] = [
        {"content": said},
        {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]},
        {"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g", "arguments": other}}]},
    ]
    text = "".join(map(writer.text, deltas))
    answer = read_answer(text, USE, "seed")
    assert answer.content == said.translate(plain)
    assert [(call.id, call.name, call.arguments) for call in answer.calls] == [
        ("a", "f", arguments.translate(plain)),
        ("b", "g", other.translate(plain)),
    ]
