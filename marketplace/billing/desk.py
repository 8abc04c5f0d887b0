"""The billing desk: quotes a job its price, reserves what it can cost, and has it settled."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from airan.core.clock import Clock
from airan.core.errors import UnavailableError
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

NOT_ACCEPTED = Outcome(
    "failed",
    0,
    0,
    error_code="not_accepted",
    error_message="the database failed before the request was accepted; not billed",
)

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
        self.weights: dict[str, int] = {}
        """Tenants' weights in the fair queue, kept as the database has them."""

    async def refresh(self) -> None:
        """Reads prices, limits and weights anew; called when they were changed here."""
        self._refreshed_s = self._clock.monotonic_s()
        rows = await self._db.call(self._db.prices.list)
        self._prices = PriceList(rows, self._list_prices)
        self._limited = await self._db.call(self._db.billing.limited_tenants)
        weights = await self._db.call(self._db.accounts.weights)
        self.weights.clear()
        self.weights.update(weights)

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
            UnavailableError: the database failed; whatever it has of the job is not run.
        """
        price = await self.quote(ask.model, ask.tier)
        accept = self._db.billing.accept
        if not durable and ask.principal.tenant_id not in self._limited:
            again = self._db.billing.accept_again
            whose = ask.principal.tenant_id
            self._db.insist_later(whose, accept, again, job, ask, price, now_s)
            amount = price.amount_micro_usd(ask.n_prompt, ask.max_tokens)
            return Reservation(job["id"], price, ask.tier, amount, ask.n_tokens)
        try:
            reservation = await self._db.call(accept, job, ask, price, now_s)
        except LimitError as error:
            rate_limit.set(error.rate_limit)
            raise
        except UnavailableError:
            self.withdraw(ask.principal.tenant_id, job["id"])
            raise
        rate_limit.set(reservation.rate_limit)
        return reservation

    async def show_limits(self, who: Principal) -> None:
        """Has the answer say what quotas are left, though no job was accepted."""
        if who.tenant_id in self._limited:
            now_s = self._clock.now_s()
            rate_limit.set(await self._db.call(self._db.billing.quotas_left, who, now_s))

    async def settle(
        self, tenant_id: str, job_id: str, outcome: Outcome, list_price: Price
    ) -> bool:
        """Ends and bills the job of that tenant, once: False if it had ended already, or is another
        gateway's. Returns when that is stored, however long the database cannot.

        `list_price` is for a job that was accepted without a quote, by an earlier airan.
        """
        ledger, now_s = self._db.ledger, self._clock.now_s()
        finish, again = ledger.finish, ledger.finish_again
        return await self._db.insist(tenant_id, finish, again, job_id, outcome, list_price, now_s)

    def withdraw(self, tenant_id: str, job_id: str) -> None:
        """Has a job that may have been stored, which its client was not told, never run."""
        ledger, now_s = self._db.ledger, self._clock.now_s()
        self._db.insist_later(
            tenant_id,
            ledger.finish,
            ledger.finish_again,
            job_id,
            NOT_ACCEPTED,
            Price(0, 0),
            now_s,
        )
