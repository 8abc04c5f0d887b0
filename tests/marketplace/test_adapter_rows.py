"""The table of adapters, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from airan.core.errors import InvalidInputError, NotFoundError
from marketplace.adapters.adapter import LATE_S, Adapter, AdapterLimits, Adapters
from marketplace.store.accounts import Accounts
from marketplace.store.adapters import AdapterRows
from marketplace.store.connect import open_database
from marketplace.store.schema import gateways

LIMITS = AdapterLimits(per_tenant=2, per_model=3)


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = open_database(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def tenants(engine: sa.Engine) -> list[str]:
    accounts = Accounts(engine)
    return [str(accounts.create_tenant(name, 0.0)["id"]) for name in ("acme", "rival")]


def adapter(number: int, tenant_id: str | None, name: str = "", base: str = "m") -> Adapter:
    return Adapter(
        f"lora-{number}",
        tenant_id,
        base,
        name or f"n{number}",
        "gguf",
        "0" * 64,
        2**40,
        None,
        "pending",
        "",
        None,
        float(number),
    )


def test_what_is_stored_is_read_again(engine: sa.Engine, tenants: list[str]) -> None:
    rows = AdapterRows(engine)
    one = adapter(1, tenants[0])
    rows.add(one, LIMITS)
    assert rows.list() == [one] == [rows.get("lora-1", tenants[0])]
    for adapter_id, tenant_id in (("lora-1", tenants[1]), ("lora-2", None), ("a\0b", None)):
        with pytest.raises(NotFoundError):
            rows.get(adapter_id, tenant_id)


def test_names_belong_to_a_tenant_and_the_operators_to_nobody_else(
    engine: sa.Engine, tenants: list[str]
) -> None:
    rows = AdapterRows(engine)
    rows.add(adapter(1, tenants[0], "mine"), LIMITS)
    rows.add(adapter(2, tenants[1], "mine"), LIMITS)
    rows.add(adapter(3, None, "ours"), LIMITS)
    for taken in (
        adapter(4, tenants[0], "mine"),
        adapter(4, None, "mine"),
        adapter(4, tenants[0], "ours"),
        adapter(4, None, "ours"),
    ):
        with pytest.raises(InvalidInputError, match="exists already"):
            rows.add(taken, LIMITS)
    rows.remove("lora-1", 9.0)
    rows.add(adapter(4, tenants[0], "mine"), LIMITS)
    with pytest.raises(NotFoundError):
        rows.get("lora-1")


def test_of_many_at_once_no_more_are_stored_than_there_may_be(
    engine: sa.Engine, tenants: list[str]
) -> None:
    rows = AdapterRows(engine)

    def add(number: int) -> bool:
        try:
            rows.add(adapter(number, tenants[number % 2]), LIMITS)
        except InvalidInputError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(add, range(12))) == 3
    assert len(rows.list()) == 3


def seat(engine: sa.Engine, gateway_id: str, number: int = 0) -> AdapterRows:
    """A gateway that is there."""
    row = {"id": gateway_id, "number": number, "url": "", "seen_s": 0.0, "report": "{}"}
    with engine.begin() as db:
        db.execute(sa.insert(gateways).values(row | {"ended": False}))
    return AdapterRows(engine, gateway_id)


def unseat(engine: sa.Engine, gateway_id: str) -> None:
    with engine.begin() as db:
        db.execute(sa.delete(gateways).where(gateways.c.id == gateway_id))


def test_a_file_comes_in_once_and_again_after_it_was_wrong_or_its_gateway_ended(
    engine: sa.Engine, tenants: list[str]
) -> None:
    one, two = seat(engine, "one"), seat(engine, "two", 1)
    one.add(adapter(1, tenants[0]), LIMITS)
    assert one.begin("lora-1")
    assert not two.begin("lora-1")
    unseat(engine, "one")
    two.recover()
    assert two.get("lora-1").state == "pending"
    assert two.begin("lora-1")
    assert not one.end("lora-1", "ready", rank=8)
    assert two.end("lora-1", "failed", "it is none")
    assert two.get("lora-1").reason == "it is none"
    assert two.begin("lora-1")
    assert two.end("lora-1", "ready", rank=8)
    assert not one.begin("lora-1")
    found = two.get("lora-1")
    assert (found.state, found.rank, found.reason) == ("ready", 8, "")
    two.refuse("lora-1", "the engine cannot")
    assert (two.get("lora-1").state, two.get("lora-1").reason) == ("failed", "the engine cannot")


def test_the_start_of_a_gateway_leaves_alone_what_a_living_one_takes_in(
    engine: sa.Engine, tenants: list[str]
) -> None:
    for number, name in enumerate(("one", "gone")):
        rows = seat(engine, name, number)
        rows.add(adapter(number, tenants[0]), LIMITS)
        rows.begin(f"lora-{number}")
    unseat(engine, "gone")
    seat(engine, "two", 2).recover()
    assert [found.state for found in rows.list()] == ["in_progress", "pending"]
    assert AdapterRows(engine, "one").end("lora-0", "ready", rank=8)


def test_a_request_is_for_the_adapter_that_had_its_name_when_it_came(
    engine: sa.Engine, tenants: list[str]
) -> None:
    rows, book = AdapterRows(engine), Adapters()
    rows.add(adapter(1, tenants[0], "mine"), LIMITS)
    rows.remove("lora-1", 5.0)
    rows.add(adapter(70, tenants[0], "mine"), LIMITS)
    book.take(rows.list())
    # At 6 s a gateway may not have known yet that it was removed.
    times = (0.5, 3.0, 6.0, 5.0 + LATE_S, 80.0, None)
    found = [book.find(tenants[0], "m:mine", time_s) for time_s in times]
    ids = [None, "lora-1", "lora-1", None, "lora-70", "lora-70"]
    assert [one and one.id for one in found] == ids
    assert book.find(tenants[1], "m:mine") is None
    assert [one.id for one in book.of_tenant(tenants[0])] == []
