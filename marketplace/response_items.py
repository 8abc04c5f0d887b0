"""The items of a response's output: what it says and which functions it calls, and their events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airan.core.errors import InvalidInputError
from marketplace.tool_calls import Argued, Called, Event, ToolReader
from marketplace.tools import ToolUse, parse_tools

Document = dict[str, Any]
_FUNCTION_KEYS = ("name", "description", "parameters", "strict")


def response_tools(values: dict[str, Any]) -> ToolUse | None:
    """The functions that a response's request offers.

    Raises:
        InvalidInputError: `tools`, `tool_choice` or `parallel_tool_calls` is wrong.
    """
    tools, choice = values.get("tools"), values.get("tool_choice")
    if isinstance(tools, list):
        tools = [_nested(tool) for tool in tools]
    if isinstance(choice, dict):
        choice = _nested(choice)
    try:
        return parse_tools(tools, choice, values.get("parallel_tool_calls"), None)
    except InvalidInputError as error:
        problem = str(error).removeprefix(f"{error.field}: ")
        field = error.field.replace(".function", "")
        raise InvalidInputError(field, problem) from error


def _nested(tool: Any) -> Any:
    """A function as chat completions have it; anything else stays, and is refused there."""
    if not isinstance(tool, dict) or tool.get("type") != "function":
        return tool
    function = {key: tool[key] for key in _FUNCTION_KEYS if key in tool}
    rest = {key: value for key, value in tool.items() if key not in _FUNCTION_KEYS}
    return rest | {"function": function}


def shown_tools(values: dict[str, Any]) -> dict[str, Any]:
    """What the request says of functions, as its response repeats it."""
    tools = [{"parameters": None, "strict": False} | tool for tool in values.get("tools") or []]
    parallel = values.get("parallel_tool_calls")
    return {
        "tools": tools,
        "tool_choice": values.get("tool_choice") or "auto",
        "parallel_tool_calls": True if parallel is None else parallel,
    }


def message_item(
    document: Document, text: str, status: str, item_id: str | None = None
) -> dict[str, Any]:
    """An item of text."""
    item_status = status if status in ("completed", "in_progress") else "incomplete"
    content = [text_part(text)] if text or status != "in_progress" else []
    item_id = item_id or "msg_" + document["id"].removeprefix("resp_")
    item = {"id": item_id, "type": "message", "role": "assistant"}
    return item | {"status": item_status, "content": content}


def text_part(text: str) -> dict[str, Any]:
    """The content of such an item."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


@dataclass
class _Item:
    """An item of the output as far as it was read."""

    id: str
    output_index: int
    call: Called | None = None
    text: str = ""
    closed: bool = False

    def shown(self, document: Document, status: str) -> dict[str, Any]:
        """In OpenAI's form."""
        if self.call is None:
            return message_item(document, self.text, status, self.id)
        state = status if status in ("completed", "in_progress") else "incomplete"
        item = {"id": self.id, "type": "function_call", "call_id": self.call.id}
        return item | {"name": self.call.name, "arguments": self.text, "status": state}


class ResponseItems:
    """Reads an answer that may call functions, and gives the events after number `after`.

    An event of a text has the number of the text's last character, all others have one each: the
    same answer has the same numbers however it was divided, also after a restart.
    """

    def __init__(self, document: Document, use: ToolUse, after: int = -1) -> None:
        self._document = document
        self._reader = ToolReader(use, document["id"])
        self._after = after
        self._n = -1
        self.items: list[_Item] = []

    def opening(self, queued: dict[str, Any], begun: dict[str, Any]) -> list[dict[str, Any]]:
        """The first two events."""
        events = [
            self._event({"type": "response.created", "response": queued}),
            self._event({"type": "response.in_progress", "response": begun}),
        ]
        return [event for event in events if event["sequence_number"] > self._after]

    def feed(self, text: str) -> list[dict[str, Any]]:
        """The events of some more of the answer."""
        return self._late(self._reader.feed(text))

    def closing(self, answer: dict[str, Any], kind: str) -> list[dict[str, Any]]:
        """The last events; `answer` is the response as it ended, `kind` its event's type."""
        events = self._late(self._reader.end())
        last = [self._close(item, answer["status"]) for item in self.items]
        ended = self._event({"type": kind, "response": answer})
        events += [one for part in last for one in part if one["sequence_number"] > self._after]
        return events + ([ended] if ended["sequence_number"] > self._after else [])

    def read(self, text: str, status: str) -> list[dict[str, Any]]:
        """The items of the answer as a whole, or as far as it is there."""
        self.feed(text)
        if status != "in_progress":
            self._late(self._reader.end())
        return [item.shown(self._document, status) for item in self.items]

    def _late(self, events: list[Event]) -> list[dict[str, Any]]:
        made = [one for event in events for one in self._made(event)]
        return [one for one in made if one["sequence_number"] > self._after]

    def _made(self, event: Event) -> list[dict[str, Any]]:
        if isinstance(event, Called):
            made = self._close_last()
            return [*made, self._begin(event)]
        if isinstance(event, Argued):
            calls = [item for item in self.items if item.call is not None]
            item = next(one for one in calls if one.call and one.call.index == event.index)
            return self._delta(item, "response.function_call_arguments.delta", event.text)
        made = []
        if not self.items or self.items[-1].call is not None:
            made = [*self._close_last(), self._begin(None)]
            item = self.items[-1]
            part = {"content_index": 0, "part": text_part("")}
            made.append(self._of(item, "response.content_part.added", part))
        item = self.items[-1]
        more = {"content_index": 0, "logprobs": []}
        return made + self._delta(item, "response.output_text.delta", event.text, more)

    def _begin(self, call: Called | None) -> dict[str, Any]:
        index = len(self.items)
        kind = "msg_" if call is None else "fc_"
        own = self._document["id"].removeprefix("resp_")
        item = _Item(kind + own + (f"_{index}" if index else ""), index, call)
        self.items.append(item)
        event = {"type": "response.output_item.added", "output_index": index}
        return self._event(event | {"item": item.shown(self._document, "in_progress")})

    def _delta(
        self, item: _Item, kind: str, text: str, more: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        first = self._n + 1
        self._n += len(text) - 1
        item.text += text
        said = {"delta": text[max(0, self._after - first + 1) :]} | (more or {})
        return [self._of(item, kind, said)]

    def _close_last(self) -> list[dict[str, Any]]:
        return self._close(self.items[-1], "completed") if self.items else []

    def _close(self, item: _Item, status: str) -> list[dict[str, Any]]:
        if item.closed:
            return []
        item.closed = True
        if item.call is None:
            text, part = item.text, text_part(item.text)
            done = {"content_index": 0, "text": text, "logprobs": []}
            events = [
                self._of(item, "response.output_text.done", done),
                self._of(item, "response.content_part.done", {"content_index": 0, "part": part}),
            ]
        else:
            done = {"name": item.call.name, "arguments": item.text}
            events = [self._of(item, "response.function_call_arguments.done", done)]
        event = {"type": "response.output_item.done", "output_index": item.output_index}
        shown = item.shown(self._document, status)
        return [*events, self._event(event | {"item": shown})]

    def _of(self, item: _Item, kind: str, values: dict[str, Any]) -> dict[str, Any]:
        where = {"type": kind, "item_id": item.id, "output_index": item.output_index}
        return self._event(where | values)

    def _event(self, values: dict[str, Any]) -> dict[str, Any]:
        self._n += 1
        return values | {"sequence_number": self._n}


def said_in(document: Document, use: ToolUse | None, text: str) -> list[dict[str, Any]]:
    """A whole answer as the messages of a conversation that goes on."""
    if use is None or not use.active:
        return [{"role": "assistant", "content": text}]
    items = ResponseItems(document, use)
    items.read(text, "completed")
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    calls = []
    for item in items.items:
        if item.call is None:
            message["content"] += item.text
        else:
            function = {"name": item.call.name, "arguments": item.text}
            calls.append({"id": item.call.id, "type": "function", "function": function})
    return [message | ({"tool_calls": calls} if calls else {})]
