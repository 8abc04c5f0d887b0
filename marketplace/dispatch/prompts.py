"""A request's prompt in tokens, from whatever engine of its model can be asked."""

from __future__ import annotations

import asyncio

from airan.core.clock import Clock
from airan.core.errors import InvalidInputError, UnavailableError
from marketplace.chat import ChatRequest
from marketplace.engines.base import Engine
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


async def prompt_tokens(
    pool: EnginePool, clock: Clock, request: ChatRequest, timeout_s: float
) -> list[int]:
    """Templates and tokenises the request, giving an engine `timeout_s` to appear.

    Raises:
        UnavailableError: none did.
        InvalidInputError: the engine refuses the messages.
    """
    deadline_s = clock.monotonic_s() + timeout_s
    while True:
        left_s = max(0.0, deadline_s - clock.monotonic_s())
        engine = await pool.wait_for_client(request.model, left_s)
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
    offered = use.tools if use is not None and use.active else ()
    if use is not None and offered:
        if use.answer_schema is not None:
            problem = "is not supported together with tools by the engine of this model"
            raise InvalidInputError("response_format", problem)
        if use.unheld is not None:
            field, _, problem = use.unheld.partition(": ")
            raise InvalidInputError(field, problem)
    text = await engine.apply_template(request.messages, offered)
    if not request.knows_calls:
        return text
    # What a template does with tools shows only in what it makes of them.
    other = await engine.apply_template(request.messages, () if offered else (_ANY_TOOL,))
    if text == other:
        raise InvalidInputError(
            "tools" if offered else "messages",
            f"{request.model!r} does not support function calls: its chat template has no tools",
            remedy="choose a model made for function calls, or send no tools",
        )
    return text
