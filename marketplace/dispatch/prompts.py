"""A request's prompt in tokens, from whatever engine of its model can be asked."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from airan.core.clock import Clock
from airan.core.errors import InvalidInputError, UnavailableError
from marketplace.chat import ChatRequest
from marketplace.engines.base import Engine, Message
from marketplace.jobs import Job
from marketplace.pool import EnginePool

_RETRY_S = 0.1
_ANY_TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "",
        "parameters": {"type": "object", "properties": {}},
    },
}


async def prompt_tokens(pool: EnginePool, clock: Clock, job: Job, timeout_s: float) -> list[int]:
    """Templates and tokenises the request, giving an engine `timeout_s` to appear.

    Raises:
        UnavailableError: none did.
        InvalidInputError: the engine refuses the messages.
    """
    request, deadline_s = job.request, clock.monotonic_s() + timeout_s
    while True:
        left_s = max(0.0, deadline_s - clock.monotonic_s())
        engine = await pool.wait_for_client(job.model, left_s)
        try:
            if engine is None:
                raise UnavailableError(
                    f"no engine for {request.model} can be reached",
                    remedy="try again in a few seconds",
                )
            if request.prompt_token_ids:
                return list(request.prompt_token_ids)
            text = request.prompt
            if text is None:
                text = await _templated(engine, request)
            return await engine.tokenize(text, parse_special=True)
        except UnavailableError:
            # The engine may have been restarted a moment ago, at another address.
            if clock.monotonic_s() + _RETRY_S >= deadline_s:
                raise
            await asyncio.sleep(_RETRY_S)


async def _templated(engine: Engine, request: ChatRequest) -> str:
    """The messages as the model's template has them, and the functions with them.

    Raises:
        InvalidInputError: the template has no place for functions, or a call cannot be held.
    """
    use = request.tools
    offered = [_without_nulls(tool) for tool in use.tools] if use is not None and use.active else []
    if use is not None and offered:
        if use.answer_schema is not None:
            problem = "is not supported together with tools by the engine of this model"
            raise InvalidInputError("response_format", problem)
        if use.unheld is not None:
            field, _, problem = use.unheld.partition(": ")
            raise InvalidInputError(field, problem)
    messages = [_with_json(message) for message in request.messages]
    text = await engine.apply_template(messages, offered)
    if not request.knows_calls:
        return text
    # What a template does with tools shows only in what it makes of them.
    other = await engine.apply_template(messages, () if offered else (_ANY_TOOL,))
    if text == other:
        raise InvalidInputError(
            "tools" if offered else "messages",
            f"{request.model!r} does not support function calls: its chat template has no tools",
            remedy="choose a model made for function calls, or send no tools",
        )
    return text


def _without_nulls(tool: dict[str, Any]) -> dict[str, Any]:
    """A member that is null is one that is not there; templates do not know that."""
    function = {key: value for key, value in tool["function"].items() if value is not None}
    return {"type": "function", "function": {"description": ""} | function}


def _with_json(message: Message) -> Message:
    """With arguments of its calls that are JSON: a model that was cut off wrote none."""
    if "tool_calls" not in message:
        return message
    calls = [call | {"function": _as_json(call["function"])} for call in message["tool_calls"]]
    return message | {"tool_calls": calls}


def _as_json(function: dict[str, Any]) -> dict[str, Any]:
    text = function["arguments"] or "{}"
    try:
        is_object = isinstance(json.loads(text, parse_constant=_refuse), dict)
    except (ValueError, RecursionError):
        is_object = False
    return function | {"arguments": text if is_object else json.dumps({"arguments": text})}


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")
