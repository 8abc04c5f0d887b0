"""Function calls that a server reports by itself, as a part of the answer's text.

So an answer is one text whoever gave it, and what is stored, paused and paid for stays the same.
Such a text begins with ARGUMENTS. A call is CALL, its head as JSON (`index`, `id`, `name`),
ARGUMENTS, and the arguments as they came.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

CALL, ARGUMENTS = "\x1e", "\x1f"
"""Control characters that JSON does not hold as they are; what a server says loses them."""
_MARKS = str.maketrans("", "", CALL + ARGUMENTS)


class CallsAsText:
    """Writes the deltas of one stream as text; `begun`: after what an earlier one wrote."""

    def __init__(self, *, begun: bool = False) -> None:
        self._begun = begun
        self._open: int | None = None
        self._known: set[int] = set()

    def text(self, delta: Mapping[str, Any]) -> str:
        """What a chat delta says: its content, and its function calls after it."""
        said = without_marks(str(delta.get("content") or ""))
        said += "".join(map(self._call, delta.get("tool_calls") or ()))
        if said and not self._begun:
            self._begun, said = True, ARGUMENTS + said
        return said

    def _call(self, part: Mapping[str, Any]) -> str:
        index, function = int(part.get("index") or 0), part.get("function") or {}
        head: dict[str, Any] = {"index": index}
        if index not in self._known:
            head |= {"id": str(part.get("id") or ""), "name": str(function.get("name") or "")}
        text = "" if index == self._open else CALL + json.dumps(head) + ARGUMENTS
        self._open = index
        self._known.add(index)
        return text + without_marks(str(function.get("arguments") or ""))


def without_marks(text: str) -> str:
    """The text as a client may see it."""
    return text.translate(_MARKS)
