"""A model that is sold here and served by somebody else, and whether they answer just now."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

from airan.core.errors import AiranError, ConfigError
from marketplace.engines.base import EngineState
from marketplace.engines.external import ExternalEngine, ExternalSettings
from marketplace.engines.invoked import InvokedEngine
from marketplace.money import Price

log = logging.getLogger(__name__)

_LOOK_S = 10.0
_LOOK_AGAIN_S = 1.0
_LOOK_LIMIT_S = 10.0


@dataclass(frozen=True)
class ExternalModel:
    """An external model as it is sold. It takes no lease: no GPU of ours works for it."""

    name: str
    """By which tenants ask for it."""
    settings: ExternalSettings
    n_ctx: int
    """Context tokens of one request, as the server has them."""
    price: Price
    max_concurrent: int = 4
    """Requests sent there at once; further ones wait here."""
    patience_s: float = 20.0
    """How long a client's request waits for a server that does not answer."""

    def __post_init__(self) -> None:
        if self.n_ctx < 1 or self.max_concurrent < 1 or self.patience_s < 0:
            raise ConfigError(
                f"external model {self.name!r}: n_ctx and max_concurrent must be 1 or more, "
                "patience_s not negative"
            )


class ExternalWatch:
    """Asks the server now and then, and at once after it broke off a request."""

    def __init__(self, model: ExternalModel) -> None:
        self.model = model
        self.engine = ExternalEngine(model.settings)
        self.invoked = InvokedEngine(model.settings, self.engine)
        self._suspected = asyncio.Event()

    def state(self, *, ready: bool) -> EngineState:
        """The server under the terms of engines on leases."""
        model = self.model
        return EngineState(
            name=f"external:{model.name}",
            model=model.name,
            phase="ready" if ready else "lost",
            # Several models of one server are several engines.
            url=f"{model.settings.url}#{model.name}",
            max_concurrent=model.max_concurrent,
            n_slots=model.max_concurrent,
            n_ctx=model.n_ctx,
        )

    def suspect(self) -> None:
        """Has the server asked at once."""
        self._suspected.set()

    async def states(self) -> AsyncIterator[EngineState]:
        """The state whenever it was looked at, without an end."""
        while True:
            self._suspected.clear()
            ready = await self._answers()
            yield self.state(ready=ready)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S if ready else _LOOK_AGAIN_S):
                    await self._suspected.wait()

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(_LOOK_LIMIT_S):
                return await self.engine.health()
        except TimeoutError:
            return False
        except AiranError as error:
            log.warning("external model %s: %s", self.model.name, error)
            return False
