"""The request to OpenAI's Responses interface as checked, and its answer and events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError

from airan.core.errors import InvalidInputError
from marketplace.chat import check_encodable, explain, without_harmless
from marketplace.engines.base import Message
from marketplace.response_items import (
    ResponseItems,
    message_item,
    response_tools,
    shown_tools,
    text_part,
)
from marketplace.tools import ToolUse

_HARMLESS: dict[str, tuple[Any, ...]] = {
    "include": (None, []),
    "reasoning": (None,),
    "truncation": (None, "disabled"),
    "text": (None, {"format": {"type": "text"}}),
    "top_logprobs": (None, 0),
    "max_tool_calls": (None,),
    "prompt": (None,),
    "conversation": (None,),
    "stream_options": (None, {}),
}
_PASSED_ON = ("model", "temperature", "top_p", "service_tier")
_FIRST_TEXT = 3
"""Sequence number of the last event before the text."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    type: Literal["input_text", "output_text"]
    text: str


class _Item(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    type: Literal["message", "function_call", "function_call_output"] = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[_Part] | None = None
    call_id: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[_Part] | None = None


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    input: Annotated[str, Field(min_length=1)] | Annotated[list[_Item], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Annotated[StrictInt, Field(ge=16)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    service_tier: str | None = None
    stream: StrictBool | None = None
    background: StrictBool | None = None
    store: StrictBool | None = None
    previous_response_id: Annotated[str, Field(max_length=64)] | None = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None


@dataclass(frozen=True)
class ResponseRequest:
    """A checked request; `messages` without those of the response it goes on from."""

    values: dict[str, Any]
    messages: list[Message]
    stream: bool
    background: bool
    store: bool
    previous_id: str | None
    instructions: str | None
    tools: ToolUse | None

    def chat_body(self, earlier: list[Message]) -> dict[str, Any]:
        """The same as a chat completion's body."""
        first = [{"role": "system", "content": self.instructions}] if self.instructions else []
        body: dict[str, Any] = {key: self.values.get(key) for key in _PASSED_ON}
        body["messages"] = first + joined(earlier + self.messages)
        if self.tools is not None:
            body |= self.tools.members()
        body["max_completion_tokens"] = self.values.get("max_output_tokens")
        return body


def parse_response_request(values: dict[str, Any]) -> ResponseRequest:
    """Checks the decoded JSON body; numbers' ranges are the chat completion's to check.

    Raises:
        InvalidInputError: a parameter is missing, wrong, or not supported; `field` names it.
    """
    check_encodable(values)
    metadata = values.get("metadata") or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise InvalidInputError("metadata", "must be an object of texts")
    try:
        body = _Body.model_validate(without_harmless(values, _HARMLESS))
    except ValidationError as error:
        raise explain(error) from error
    if body.background and body.store is False:
        raise InvalidInputError("store", "must not be false with background")
    if isinstance(body.input, str):
        messages = [{"role": "user", "content": body.input}]
    else:
        messages = [_message(item, f"input.{n}") for n, item in enumerate(body.input)]
    return ResponseRequest(
        values,
        messages,
        bool(body.stream),
        bool(body.background),
        body.store is not False,
        body.previous_response_id,
        body.instructions,
        response_tools(values),
    )


def response_object(
    document: dict[str, Any], state: str, text: str, end: dict[str, Any]
) -> dict[str, Any]:
    """A response in OpenAI's form. `state` is its job's, `end` the job's row once it ended."""
    status = _status(state, end)
    values = document["values"]
    done = status in ("completed", "incomplete")
    error = None
    if status == "failed":
        error = {"code": "server_error", "message": end.get("error_message") or "It failed."}
    cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
    return {
        "id": document["id"],
        "object": "response",
        "created_at": int(document["created_s"]),
        "status": status,
        "background": document["background"],
        "error": error,
        "incomplete_details": cut,
        "instructions": values.get("instructions"),
        "max_output_tokens": values.get("max_output_tokens"),
        "metadata": values.get("metadata") or {},
        "model": values["model"],
        "output": _output(document, text, status),
        "previous_response_id": values.get("previous_response_id"),
        "service_tier": document["service_tier"],
        "store": document["store"],
        "temperature": 1.0 if values.get("temperature") is None else values["temperature"],
        "text": {"format": {"type": "text"}},
        **shown_tools(values),
        "top_p": 1.0 if values.get("top_p") is None else values["top_p"],
        "truncation": "disabled",
        "usage": _usage(end) if done else None,
    }


def _output(document: dict[str, Any], text: str, status: str) -> list[dict[str, Any]]:
    use = response_tools(document["values"])
    if use is not None and use.active:
        return ResponseItems(document, use).read(text, status)
    done = status in ("completed", "incomplete")
    return [message_item(document, text, status)] if done or text else []


def events_between(
    document: dict[str, Any], text: str, n_before: int, after: int
) -> list[dict[str, Any]]:
    """The events of the text from character `n_before` on, but those up to number `after`.

    A text's event has the number of its last character, so the same text has the same numbers
    however it was divided, also after a restart: a client that heard number N has heard all
    of the answer up to there.
    """
    where = _where(document)
    start = message_item(document, "", "in_progress")
    queued, opening = openings(document)
    events: list[dict[str, Any]] = []
    if n_before == 0:
        events = [
            {"type": "response.created", "response": queued},
            {"type": "response.in_progress", "response": opening},
            {"type": "response.output_item.added", "output_index": 0, "item": start},
            {"type": "response.content_part.added", **where, "part": text_part("")},
        ]
        events = [event | {"sequence_number": n} for n, event in enumerate(events)]
    begin = max(n_before, after - _FIRST_TEXT)
    if text[begin:]:
        delta = {"type": "response.output_text.delta", **where, "delta": text[begin:]}
        events.append(delta | {"logprobs": [], "sequence_number": _FIRST_TEXT + len(text)})
    return [event for event in events if event["sequence_number"] > after]


def closing_events(document: dict[str, Any], answer: dict[str, Any], text: str, after: int) -> Any:
    """The events after the text's last, but those up to number `after`."""
    where = _where(document)
    status = answer["status"]
    events: list[dict[str, Any]] = [
        {"type": "response.output_text.done", **where, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **where, "part": text_part(text)},
        {
            "type": "response.output_item.done",
            "output_index": 0,
            "item": message_item(document, text, status),
        },
        {"type": last_event(status), "response": answer},
    ]
    first = _FIRST_TEXT + len(text) + 1
    numbered = [event | {"sequence_number": first + n} for n, event in enumerate(events)]
    return [event for event in numbered if event["sequence_number"] > after]


def openings(document: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The response as it is accepted, and as its work begins."""
    begun = response_object(document, "running", "", {})
    return begun | {"status": "queued" if document["background"] else "in_progress"}, begun


def last_event(status: str) -> str:
    """The type of a stream's last event."""
    # OpenAI's event types know no cancelled one: such a stream ends as a failed one.
    return "response.failed" if status == "cancelled" else f"response.{status}"


def joined(messages: list[Message]) -> list[Message]:
    """With calls that follow each other, or the assistant's text, in one message."""
    found: list[Message] = []
    for message in messages:
        calls = message.get("tool_calls")
        if calls and found and found[-1]["role"] == "assistant":
            calls = found[-1].get("tool_calls", []) + calls
            found[-1] = found[-1] | {"tool_calls": calls}
        else:
            found.append(message)
    return found


def _message(item: _Item, where: str) -> Message:
    """An item of the input as a chat message.

    Raises:
        InvalidInputError: it lacks what items of its type have.
    """
    needed = {
        "message": ("role", "content"),
        "function_call": ("call_id", "name", "arguments"),
        "function_call_output": ("call_id", "output"),
    }[item.type]
    for key in needed:
        if getattr(item, key) is None:
            raise InvalidInputError(f"{where}.{key}", "is required")
    if item.type == "function_call":
        function = {"name": item.name, "arguments": item.arguments}
        call = {"id": item.call_id, "type": "function", "function": function}
        return {"role": "assistant", "content": "", "tool_calls": [call]}
    if item.type == "function_call_output":
        text = _text(item.output or "")
        return {"role": "tool", "tool_call_id": item.call_id, "content": text}
    return {"role": item.role, "content": _text(item.content or "")}


def _where(document: dict[str, Any]) -> dict[str, Any]:
    item_id = "msg_" + document["id"].removeprefix("resp_")
    return {"item_id": item_id, "output_index": 0, "content_index": 0}


def _status(state: str, end: dict[str, Any]) -> str:
    if state == "completed":
        return "incomplete" if end.get("finish_reason") == "length" else "completed"
    return {"preempted": "in_progress", "running": "in_progress"}.get(state, state)


def _usage(end: dict[str, Any]) -> dict[str, Any]:
    n_in, n_out = end["input_tokens"], end["output_tokens"]
    return {
        "input_tokens": n_in,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": n_out,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": n_in + n_out,
    }


def _text(content: str | list[_Part]) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content)
