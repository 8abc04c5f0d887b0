"""A marketplace's stores for tests, with tenants, and jobs that come and end."""

from __future__ import annotations

import itertools
from typing import Any

import sqlalchemy as sa

from marketplace.billing.quotes import Ask, Reservation, Tier
from marketplace.money import Price
from marketplace.principal import Principal
from marketplace.store.accounts import Accounts
from marketplace.store.billing import Billing
from marketplace.store.books import Books
from marketplace.store.connect import open_database, writing
from marketplace.store.keys import Keys, KeySpec
from marketplace.store.ledger import Ledger, Outcome
from marketplace.store.statements import Statements
from marketplace.store.takeover import inherit

PRICE = Price(1000, 3000)
NOW_S = 1_790_000_000.0


def left_open(ledger: Ledger, now_s: float) -> list[dict[str, Any]]:
    """What a gateway goes on with that starts after another one has gone."""
    with writing(ledger._engine) as db:
        return inherit(db, "the next one", None, now_s).jobs


class Shop:
    """Everything over one database."""

    def __init__(self, url: str) -> None:
        self.engine = open_database(url)
        self.accounts, self.keys = Accounts(self.engine), Keys(self.engine)
        self.billing, self.books = Billing(self.engine), Books(self.engine)
        self.ledger, self.statements = Ledger(self.engine), Statements(self.engine)
        self._numbers = itertools.count()

    def close(self) -> None:
        self.engine.dispose()

    def tenant(self, name: str = "acme", terms: str = "postpaid") -> str:
        return str(self.accounts.create_tenant(name, NOW_S, terms)["id"])

    def principal(self, tenant: str = "acme", **changes: object) -> Principal:
        made = self.keys.create(tenant, KeySpec(**changes), NOW_S)  # type: ignore[arg-type]
        found = self.keys.authenticate(made["key"], NOW_S)
        assert found is not None
        return found

    def accept(
        self,
        who: Principal,
        n_prompt: int,
        max_tokens: int,
        *,
        now_s: float = NOW_S,
        price: Price = PRICE,
        tier: Tier = "default",
        job_id: str | None = None,
    ) -> Reservation:
        job = {
            "id": job_id or f"job-{id(self)}-{next(self._numbers)}",
            "kind": "sync",
            "tenant_id": who.tenant_id,
            "key_id": who.key_id,
            "model": "m",
            "request": None,
            "input_tokens": n_prompt,
        }
        return self.billing.accept(job, Ask(who, "m", tier, n_prompt, max_tokens), price, now_s)

    def finish(
        self, job_id: str, n_in: int, n_out: int, state: str = "completed", now_s: float = NOW_S
    ) -> bool:
        return self.ledger.finish(job_id, Outcome(state, n_in, n_out), Price(7, 7), now_s)

    def count(self, table: sa.Table) -> int:
        with self.engine.connect() as db:
            return int(db.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())
