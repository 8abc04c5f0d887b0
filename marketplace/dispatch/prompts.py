"""A request's prompt in tokens, from whatever engine of its model can be asked."""

from __future__ import annotations

import asyncio

from airan.core.clock import Clock
from airan.core.errors import UnavailableError
from marketplace.chat import ChatRequest
from marketplace.pool import EnginePool

_RETRY_S = 0.1


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
                text = await engine.apply_template(request.messages)
            return await engine.tokenize(text, parse_special=True)
        except UnavailableError:
            # The engine may have been restarted a moment ago, at another address.
            if clock.monotonic_s() + _RETRY_S >= deadline_s:
                raise
            await asyncio.sleep(_RETRY_S)
