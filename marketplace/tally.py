"""Tokens of an answer that came as text: as the engine counted them, within what can be true."""

from __future__ import annotations

import json
from collections.abc import Sequence

from marketplace.chat import ChatRequest
from marketplace.engines.text import Usage
from marketplace.tools import size_of

_TEMPLATE_TOKENS = 256
_MESSAGE_TOKENS = 16
"""Most that a chat template may add to the whole, and to each message."""


class Tally:
    """Counts for the bill. What the engine reports is taken where it can be true.

    Until then, and where it reports nothing, the least is taken that it can have been: a token for
    every piece of the answer, and one for every word of the prompt.
    """

    def __init__(self, request: ChatRequest, n_ctx: int) -> None:
        texts = _texts(request)
        self.least_input = sum(len(text.split()) for text in texts)
        n_bytes = sum(len(text.encode()) for text in texts)
        most = n_bytes + _TEMPLATE_TOKENS + _MESSAGE_TOKENS * len(request.messages)
        if request.response_schema is not None:
            most += len(json.dumps(request.response_schema))
        most += size_of(request.tools)
        self.most_input = min(n_ctx, most)
        self.n_output = 0
        self._n_input: int | None = None
        self._before_turn = 0

    @property
    def n_input(self) -> int:
        """Tokens of the prompt."""
        return self.least_input if self._n_input is None else self._n_input

    def begin_turn(self) -> None:
        """An engine begins, or goes on after what there is."""
        self._before_turn = self.n_output

    def piece(self) -> None:
        """Some more text came."""
        self.n_output += 1

    def report(self, usage: Usage, most_output: int) -> bool:
        """Takes what the engine reports of this turn; False if that cannot be true.

        `most_output`: tokens that it might generate in this turn.
        """
        # To an engine that goes on, the text before it is a part of the prompt.
        n_input = usage.prompt_tokens - self._before_turn
        n_output = usage.completion_tokens
        most_input = self.most_input
        least_output = 1 if self.n_output > self._before_turn else 0
        self._n_input = min(max(n_input, 0), most_input)
        self.n_output = self._before_turn + min(max(n_output, least_output), most_output)
        return 0 <= n_input <= most_input and least_output <= n_output <= most_output

    def start_over(self) -> None:
        """What came until now is thrown away."""
        self.n_output = self._before_turn = 0


def _texts(request: ChatRequest) -> Sequence[str]:
    if request.prompt is not None:
        return [request.prompt]
    texts = [message["content"] for message in request.messages]
    return texts + [
        json.dumps(one["tool_calls"]) for one in request.messages if "tool_calls" in one
    ]
