"""The billing desk: quotes a job its price, reserves what it can cost, and has it settled."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from airan.core.clock import Clock
from marketplace.billing.limits import LimitError, RateLimit
from marketplace.billing.prices import PriceList
from marketplace.billing.quotes import Ask, Reservation
from marketplace.billing.spot import SpotPrice
from marketplace.money import Price
from marketplace.principal import Principal
from marketplace.store.database import Database
from marketplace.store.ledger import Outcome

_REFRESH_S = 5.0
"""How long what another gateway changed may stay unknown here."""

rate_limit: ContextVar[RateLimit | None] = ContextVar("rate_limit", default=None)
"""What the quotas left after the latest job of the HTTP request at hand."""


class Desk:
    """Runs in one event loop. Limits themselves are kept in the database, not here."""

    def __init__(
        self, database: Database, list_prices: dict[str, Price], clock: Clock, spot: SpotPrice
    ) -> None:
        self._db = database
        self._list_prices = list_prices
        self._clock = clock
        self._spot = spot
        self._prices = PriceList((), list_prices)
        self._limited: frozenset[str] = frozenset()
        self._refreshed_s: float | None = None

    async def refresh(self) -> None:
        """Reads prices and limits anew; called when they were changed here."""
        self._refreshed_s = self._clock.monotonic_s()
        rows = await self._db.call(self._db.prices.list)
        self._prices = PriceList(rows, self._list_prices)
        self._limited = await self._db.call(self._db.billing.limited_tenants)

    async def quote(self, model: str, tier: str) -> Price:
        """What 1,000 tokens cost now."""
        now_s = self._clock.monotonic_s()
        if self._refreshed_s is None or now_s - self._refreshed_s >= _REFRESH_S:
            await self.refresh()
        level = self._spot.level_permille()
        return self._prices.at(model, tier, self._clock.now_s(), level)

    async def reserve(
        self, job: dict[str, Any], ask: Ask, now_s: float, *, durable: bool
    ) -> Reservation:
        """Stores the job with its price and what it can cost set aside.

        `job` is the row to store. `durable`: it is stored when this returns; jobs of tenants with
        limits always are, others soon.

        Raises:
            QuotaExceededError, BudgetExceededError: a limit refuses it, and it is not stored.
        """
        price = await self.quote(ask.model, ask.tier)
        accept = self._db.billing.accept
        if not durable and ask.principal.tenant_id not in self._limited:
            self._db.post(accept, job, ask, price, now_s)
            amount = price.amount_micro_usd(ask.n_prompt, ask.max_tokens)
            return Reservation(job["id"], price, ask.tier, amount, ask.n_tokens)
        try:
            reservation = await self._db.call(accept, job, ask, price, now_s)
        except LimitError as error:
            rate_limit.set(error.rate_limit)
            raise
        rate_limit.set(reservation.rate_limit)
        return reservation

    async def show_limits(self, who: Principal) -> None:
        """Has the answer say what quotas are left, though no job was accepted."""
        if who.tenant_id in self._limited:
            now_s = self._clock.now_s()
            rate_limit.set(await self._db.call(self._db.billing.quotas_left, who, now_s))

    async def settle(self, job_id: str, outcome: Outcome, list_price: Price) -> bool:
        """Ends and bills the job, once: False if it had ended already.

        `list_price` is for a job that was accepted without a quote, by an earlier airan.
        """
        now_s = self._clock.now_s()
        return await self._db.call(self._db.ledger.finish, job_id, outcome, list_price, now_s)
