"""Tenants' weights: kept in the store, set by the operator, and obeyed at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError, NotFoundError
from marketplace.dispatch.queue import FairQueue, Ticket
from marketplace.store.accounts import Accounts
from marketplace.store.connect import open_database, reading
from marketplace.store.schema import jobs
from tests.marketplace.simulated_engine import MODEL, simulated_market
from tests.marketplace.site import ADMIN_KEY, FakeControl, eventually, new_key

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
N_JOBS = 120


@settings(max_examples=40)
@given(
    weights=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    costs=st.lists(st.integers(1, 60), min_size=1, max_size=7),
)
def test_under_backlog_the_tokens_served_are_as_the_weights(
    weights: list[int], costs: list[int]
) -> None:
    queue: FairQueue[str] = FairQueue(
        weights={str(n): weight for n, weight in enumerate(weights)}, max_per_tenant=10**6
    )
    n_each = 2000
    for sequence in range(n_each * len(weights)):
        tenant = sequence % len(weights)
        cost = costs[sequence // len(weights) % len(costs)]
        queue.push(Ticket("", "default", str(tenant), cost, sequence))
    served = dict.fromkeys(map(str, range(len(weights))), 0)
    # As long as all of them wait.
    for _ in range(n_each):
        ticket = queue.pop()
        assert ticket is not None
        served[ticket.tenant_id] += ticket.cost_tokens
    total = sum(served.values())
    for tenant, weight in enumerate(weights):
        wanted = weight / sum(weights)
        # A round more or less for the one or the other is what is left over.
        slack = 2 * max(costs) * max(weights) / total
        assert abs(served[str(tenant)] / total - wanted) <= 0.02 + slack


def test_a_weight_is_kept_on_either_database(database_url: str) -> None:
    engine = open_database(database_url)
    accounts = Accounts(engine)
    made = accounts.create_tenant("acme", 0.0)
    accounts.create_tenant("other", 1.0)
    assert (made["weight"], accounts.weights()) == (1, {})
    assert accounts.set_weight("acme", 3)["weight"] == 3
    assert accounts.weights() == {made["id"]: 3}
    assert [row["weight"] for row in accounts.list_tenants()] == [3, 1]
    for weight in (0, 1001):
        with pytest.raises(InvalidInputError, match="between 1 and 1000"):
            accounts.set_weight("acme", weight)
    with pytest.raises(NotFoundError):
        accounts.set_weight("nobody", 2)
    engine.dispose()


@pytest.fixture
def control() -> FakeControl:
    return FakeControl()


@pytest.fixture
async def market(tmp_path: Path, control: FakeControl) -> AsyncIterator[str]:
    async with simulated_market(tmp_path, control=control) as url:
        yield url


async def set_weight(http: httpx.AsyncClient, tenant: str, weight: Any) -> httpx.Response:
    path = f"/admin/v1/tenants/{tenant}/weight"
    return await http.put(path, headers=ADMIN, json={"weight": weight})


async def submit(http: httpx.AsyncClient, key: str) -> None:
    body = {"messages": [{"role": "user", "content": "Story."}], "max_tokens": 8}
    headers = {"Authorization": f"Bearer {key}", "NVCF-POLL-SECONDS": "0"}
    answer = await http.post(f"/v2/nvcf/pexec/functions/{MODEL}", headers=headers, json=body)
    assert answer.status_code == 202, answer.text


class Ends:
    """Reads in which order jobs ended."""

    def __init__(self, folder: Path) -> None:
        self._engine = open_database(f"sqlite:///{folder / 'marketplace.db'}")

    def tenants(self) -> list[str]:
        """Whose they were, by tenants' ids."""
        done = sa.select(jobs.c.tenant_id).where(jobs.c.state == "completed")
        with reading(self._engine) as db:
            return list(db.execute(done.order_by(jobs.c.updated_s)).scalars())

    def close(self) -> None:
        self._engine.dispose()


async def test_shares_under_backlog_follow_the_weights_and_their_change(
    market: str, control: FakeControl, tmp_path: Path
) -> None:
    ends = Ends(tmp_path)
    async with httpx.AsyncClient(base_url=market, timeout=30) as http:
        keys = [await new_key(market, tenant) for tenant in ("acme", "small")]
        listed = (await http.get("/admin/v1/tenants", headers=ADMIN)).json()["data"]
        acme = next(row["id"] for row in listed if row["name"] == "acme")
        assert (await set_weight(http, "acme", 3)).json()["weight"] == 3
        # All of them wait before the first one is begun.
        await control.revoke()
        await asyncio.gather(*(submit(http, key) for _ in range(N_JOBS) for key in keys))
        control.offer()
        await eventually(lambda: len(ends.tenants()) >= 70)
        changed_at = len(ends.tenants())
        assert (await set_weight(http, "acme", 1)).status_code == 200
        await eventually(lambda: len(ends.tenants()) >= changed_at + 60)
    order = ends.tenants()
    ends.close()
    # At a change, a round is under way.
    weighted = order[:changed_at]
    assert abs(weighted.count(acme) / len(weighted) - 3 / 4) <= 0.08
    equal = order[changed_at + 12 : changed_at + 60]
    assert abs(equal.count(acme) / len(equal) - 1 / 2) <= 0.08


async def test_a_gateway_that_starts_knows_the_weights(tmp_path: Path) -> None:
    async with (
        simulated_market(tmp_path) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as http,
    ):
        await new_key(url)
        await set_weight(http, "acme", 7)
    async with (
        simulated_market(tmp_path) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as http,
    ):
        rows = (await http.get("/admin/v1/tenants", headers=ADMIN)).json()["data"]
        assert [row["weight"] for row in rows] == [7]


@pytest.mark.parametrize("weight", [0, 1001, 1.5, "2", None])
async def test_what_is_no_weight_is_refused_by_name(market: str, weight: Any) -> None:
    async with httpx.AsyncClient(base_url=market, timeout=30) as http:
        await new_key(market)
        refused = await set_weight(http, "acme", weight)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "weight")
        assert (await set_weight(http, "nobody", 2)).status_code == 404
        assert json.loads(refused.text)["error"]["code"] == "invalid_value"
