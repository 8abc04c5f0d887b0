"""The contract of engines that speak text: every driver keeps it, with token ids or without."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from marketplace.engines.base import Engine, FinishReason, Message, SamplingParams

Resume = Literal["tokens", "text", "none"]
"""How a broken answer goes on: `tokens` exactly, `text` may be spelled in other tokens."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the engine counted them."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class TextChunk:
    """A piece of the answer, always whole characters; only the last has a finish reason."""

    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    """On the last chunk; None where the engine does not count. Covers this call only."""
    resumed: Resume = "none"
    """How this call took up what was answered before; `none` when it began afresh."""


class TextEngine(Protocol):
    """A served model that answers chat messages in text.

    All calls raise UnavailableError when it cannot be reached just now.
    """

    @property
    def resume(self) -> Resume:
        """How the engine continues an answer that was broken off."""
        ...

    def answer(
        self, messages: Sequence[Message], params: SamplingParams, *, answered: str = ""
    ) -> AsyncIterator[TextChunk]:
        """Answers, or goes on after `answered`; closing the iterator stops the engine.

        Raises:
            InvalidInputError: the engine refuses the messages or a parameter.
            CapacityError: the engine takes no more requests just now.
        """
        ...

    async def health(self) -> bool:
        """Whether the engine answers."""
        ...

    async def aclose(self) -> None:
        """Closes the connections."""
        ...


class TokensAsText:
    """An Engine of tokens under the contract of text, in its slot `slot`."""

    resume: Resume = "tokens"

    def __init__(self, engine: Engine, slot: int = 0) -> None:
        self._engine = engine
        self._slot = slot

    async def answer(
        self, messages: Sequence[Message], params: SamplingParams, *, answered: str = ""
    ) -> AsyncIterator[TextChunk]:
        """See TextEngine.answer."""
        engine = self._engine
        ids = await engine.tokenize(await engine.apply_template(messages), parse_special=True)
        if answered:
            ids += await engine.tokenize(answered, parse_special=False)
        # Only the text was kept, so that its tokens may be other ones than the engine chose.
        resumed: Resume = "text" if answered else "none"
        async with contextlib.aclosing(
            engine.generate(ids, params, slot=self._slot)  # type: ignore[type-var]
        ) as chunks:
            async for chunk in chunks:
                usage = Usage(len(ids), chunk.n_generated) if chunk.finish_reason else None
                yield TextChunk(chunk.text, chunk.finish_reason, usage, resumed)

    async def health(self) -> bool:
        """See TextEngine.health."""
        return await self._engine.health()

    async def aclose(self) -> None:
        """See TextEngine.aclose."""
        await self._engine.aclose()
