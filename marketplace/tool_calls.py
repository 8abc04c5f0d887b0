"""Function calls found in an answer's text, however it is divided, in the forms models write.

Hermes and Qwen: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`. Llama 3: the answer
begins with such an object, or with `<|python_tag|>`, and says `parameters` for the arguments. A
forced call is the object alone. Calls of external servers: marketplace.engines.calls.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from marketplace.engines.calls import ARGUMENTS, CALL
from marketplace.tools import ToolUse

_HERMES, _HERMES_END, _PYTHON = "<tool_call>", "</tool_call>", "<|python_tag|>"
_MARKS = (_HERMES, _PYTHON)
_ARGUMENTS = ("arguments", "parameters")
_HEAD = re.compile(
    r'\s*\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"([^"\\]*)"\s*,'
    r'\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)


@dataclass(frozen=True, slots=True)
class Said:
    """Some more text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Called:
    """A call begins."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Argued:
    """Some more of a call's arguments, as JSON text."""

    index: int
    text: str


Event = Said | Called | Argued


@dataclass
class Call:
    """A call as a whole."""

    id: str
    name: str
    arguments: str = ""

    def to_dict(self) -> dict[str, Any]:
        """In the form of a chat completion's message."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass
class Answer:
    """What an answer says and calls."""

    content: str = ""
    calls: list[Call] = field(default_factory=list)


class _Scan:
    """Finds where a JSON object ends."""

    def __init__(self) -> None:
        self._depth, self._in_text, self._escaped = 0, False, False

    def end(self, text: str, start: int = 0) -> int | None:
        """The place after the object's last brace; None: it is not here yet."""
        for at in range(start, len(text)):
            letter = text[at]
            if self._escaped:
                self._escaped = False
            elif self._in_text:
                self._escaped = letter == "\\"
                self._in_text = letter != '"'
            elif letter == '"':
                self._in_text = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return at + 1
        return None


class ToolReader:
    """Reads an answer piece by piece. What is no whole head of a call of a known function is text.

    `seed`: from what the ids of calls follow, so that they stay the same however often it is read.
    """

    def __init__(self, use: ToolUse, seed: str) -> None:
        self._use, self._seed = use, seed
        self._names = use.names
        self._rest, self._state = "", "text"
        self._opening = ""
        """What stood before the object that is read: it is text again if that is no call."""
        self._said_any = False
        self._n_calls = 0
        self._ended = False
        self._index = 0
        self._scan = _Scan()
        self._n_scanned = 0

    def feed(self, text: str) -> list[Event]:
        """Adds text; returns what is certain by now."""
        self._rest += text
        return self._read()

    def end(self) -> list[Event]:
        """What was held back, at the end of the text."""
        self._ended = True
        events = self._read()
        if self._state == "object" and self._opening:
            events += self._is_text(0)
        return events

    def _read(self) -> list[Event]:
        events: list[Event] = []
        while self._rest:
            before = (self._state, len(self._rest))
            events += getattr(self, f"_in_{self._state}")()
            if before == (self._state, len(self._rest)):
                break
        if self._use.parallel is False:
            events = [one for one in events if isinstance(one, Said) or one.index == 0]
        return events

    def _in_text(self) -> list[Event]:
        rest = self._rest
        if rest.startswith(ARGUMENTS) and not self._said_any:
            self._rest, self._state = rest[1:], "reported"
            return []
        found = [(at, mark) for mark in _MARKS if (at := rest.find(mark)) >= 0]
        stripped = rest.lstrip()
        if not self._said_any and stripped.startswith("{"):
            start = len(rest) - len(stripped)
            self._begin(rest[:start], start)
            return []
        if found:
            at, mark = min(found)
            before = rest[:at].rstrip()
            self._begin(rest[len(before) : at] + mark, at + len(mark))
            return self._say(before)
        keep = 0 if self._ended else _held_back(rest)
        self._rest = rest[len(rest) - keep :]
        return self._say(rest[: len(rest) - keep])

    def _begin(self, opening: str, n_read: int) -> None:
        """An object that may be a call comes next."""
        self._opening, self._rest = opening, self._rest[n_read:]
        self._state, self._scan, self._n_scanned = "object", _Scan(), 0

    def _say(self, text: str) -> list[Event]:
        self._said_any = self._said_any or bool(text)
        return [Said(text)] if text else []

    def _in_object(self) -> list[Event]:
        rest, stripped = self._rest, self._rest.lstrip()
        if stripped and not stripped.startswith("{"):
            return self._is_text(0)
        head = _HEAD.match(rest)
        if head is not None and head[1] in self._names:
            self._rest, self._state = rest[head.end() :], "arguments"
            self._scan = _Scan()
            return self._call("", head[1])
        end = self._scan.end(rest, self._n_scanned)
        if end is None:
            self._n_scanned = len(rest)
            return self._is_text(len(rest)) if self._ended else []
        call = self._read_object(rest[:end])
        if call is None:
            return self._is_text(end)
        self._rest, self._state = rest[end:], "closing"
        return [*self._call("", call[0]), Argued(self._index, call[1])]

    def _is_text(self, end: int) -> list[Event]:
        said = self._opening + self._rest[:end]
        self._rest, self._state = self._rest[end:], "text"
        return self._say(said)

    def _read_object(self, text: str) -> tuple[str, str] | None:
        """Name and arguments of a call whose members stand in another order."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            return None
        name = values.get("name")
        arguments: Any = next((values[key] for key in _ARGUMENTS if key in values), {})
        if not isinstance(name, str) or name not in self._names:
            return None
        # Some models write the arguments as a text that holds JSON.
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        return name, text

    def _in_arguments(self) -> list[Event]:
        rest = self._rest
        end = self._scan.end(rest)
        piece = rest if end is None else rest[:end]
        self._rest = rest[len(piece) :]
        if end is not None:
            self._state = "tail"
        return [Argued(self._index, piece)]

    def _in_tail(self) -> list[Event]:
        """Between the arguments and the end of the object there may be members of no meaning."""
        scan = _Scan()
        scan.end("{")
        end = scan.end(self._rest)
        if end is not None:
            self._rest, self._state = self._rest[end:], "closing"
        elif self._ended:
            self._rest = ""
        return []

    def _in_closing(self) -> list[Event]:
        """After an object: the mark that closes it, or the next object."""
        stripped = self._rest.lstrip()
        if stripped.startswith(_HERMES_END):
            self._rest, self._state = stripped.removeprefix(_HERMES_END), "text"
        elif stripped.startswith((";", ",")) and (after := stripped[1:].lstrip()):
            self._state = "text"
            if after.startswith("{"):
                start = len(self._rest) - len(after)
                self._begin(self._rest[:start], start)
        elif stripped.startswith("{"):
            start = len(self._rest) - len(stripped)
            self._begin(self._rest[:start], start)
        elif self._ended or (stripped not in (";", ",") and not _HERMES_END.startswith(stripped)):
            self._state = "text"
            self._rest = stripped
        return []

    def _in_reported(self) -> list[Event]:
        """A server's text, in which it reports the calls by itself."""
        said, mark, self._rest = self._rest.partition(CALL)
        if mark:
            self._state = "head"
        return self._say(said)

    def _in_head(self) -> list[Event]:
        head, mark, rest = self._rest.partition(ARGUMENTS)
        if not mark:
            if self._ended:
                self._rest = ""
            return []
        self._rest, self._state = rest, "raw"
        try:
            values = json.loads(head)
            index, name = int(values["index"]), values.get("name")
        except (ValueError, KeyError, TypeError, RecursionError):
            self._state = "reported"
            return []
        if name is None:
            self._index = index
            return []
        return self._call(str(values.get("id") or ""), str(name), index)

    def _in_raw(self) -> list[Event]:
        piece, mark, rest = self._rest.partition(CALL)
        self._rest = rest
        if mark:
            self._state = "head"
        return [Argued(self._index, piece)] if piece else []

    def _call(self, given_id: str, name: str, index: int | None = None) -> list[Event]:
        self._index = self._n_calls if index is None else index
        self._n_calls += 1
        self._said_any = True
        if not given_id:
            text = f"{self._seed}:{self._index}".encode()
            given_id = "call_" + hashlib.sha256(text).hexdigest()[:24]
        return [Called(self._index, given_id, name)]


def _held_back(text: str) -> int:
    """How much of the end may belong to a call: the beginning of a mark, and space before it."""
    longest = max(map(len, _MARKS)) - 1
    part = next((n for n in range(min(longest, len(text)), 0, -1) if _begins_mark(text[-n:])), 0)
    before = text[: len(text) - part]
    return part + len(before) - len(before.rstrip())


def _begins_mark(end: str) -> bool:
    return any(mark.startswith(end) for mark in _MARKS)


def gather(events: list[Event], into: Answer) -> Answer:
    """Adds the events to the answer."""
    for event in events:
        if isinstance(event, Said):
            into.content += event.text
        elif isinstance(event, Called):
            into.calls.append(Call(event.id, event.name))
        elif into.calls:
            into.calls[min(event.index, len(into.calls) - 1)].arguments += event.text
    return into


def read_answer(text: str, use: ToolUse | None, seed: str) -> Answer:
    """A whole answer; without functions to call all of it is text."""
    if use is None or not use.active:
        return Answer(text)
    reader = ToolReader(use, seed)
    return gather([*reader.feed(text), *reader.end()], Answer())


def delta_of(event: Event) -> dict[str, Any]:
    """The event as a chat completion chunk's delta."""
    if isinstance(event, Said):
        return {"content": event.text}
    part: dict[str, Any] = {"index": event.index}
    if isinstance(event, Called):
        part |= {"id": event.id, "type": "function"}
        part["function"] = {"name": event.name, "arguments": ""}
    else:
        part["function"] = {"arguments": event.text}
    return {"tool_calls": [part]}
