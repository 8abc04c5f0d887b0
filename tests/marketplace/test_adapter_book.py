"""Several gateways on one database publish the same adapters in one folder."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from airan.core.clock import ManualClock
from airan.core.errors import InvalidInputError, UnavailableError
from marketplace.adapters.adapter import LATE_S, Adapter
from marketplace.dispatch import Dispatcher
from marketplace.gateway.adapter_book import AdapterBook
from marketplace.meter import Meter
from marketplace.money import Price
from marketplace.store.database import Database
from marketplace.store.keys import KeySpec
from marketplace.store.ledger import Outcome
from tests.marketplace.lora_files import KEYS, gguf
from tests.marketplace.site import MODEL, gateway_settings
from tests.marketplace.test_adapter_rows import seat, unseat

NAME = "blk.0.attn_output.weight"
FILE = gguf(KEYS, {f"{NAME}.lora_a": np.ones((4, 32)), f"{NAME}.lora_b": np.ones((64, 4))})
NOW_S = 1000.0


@dataclass
class Gateway:
    db: Database
    book: AdapterBook
    clock: ManualClock

    async def add(self, name: str = "mine") -> Adapter:
        one = self.adapter(name)
        await self.book.add(one)
        return await self.book.receive(one, pieces(FILE))

    def adapter(self, name: str) -> Adapter:
        sha256 = hashlib.sha256(FILE).hexdigest()
        size, now_s = len(FILE), self.clock.now_s()
        return Adapter(
            f"lora-{name}",
            None,
            MODEL,
            name,
            "gguf",
            sha256,
            size,
            None,
            "pending",
            "",
            None,
            now_s,
        )

    def published(self) -> list[str]:
        return [one.id for one in self.book.folder.wanted(MODEL)]


async def pieces(*content: bytes) -> AsyncIterator[bytes]:
    for piece in content:
        yield piece


@pytest.fixture
async def gateways(database_url: str, tmp_path: Path) -> AsyncIterator[list[Gateway]]:
    clock, made = ManualClock(NOW_S), []
    settings = gateway_settings(tmp_path)
    for number, name in enumerate(("one", "two")):
        db = Database(database_url, name)
        seat(db._engine, name, number)
        dispatcher = Dispatcher(db, settings.offers, (), Meter(), clock)
        made.append(Gateway(db, AdapterBook(settings, clock), clock))
        await made[-1].book.open(db, dispatcher)
    yield made
    for one in made:
        one.db.close()


async def begin_job(gateway: Gateway) -> None:
    """An open job with the adapter `mine`, at whichever gateway."""
    db = gateway.db
    tenant = await db.call(db.accounts.create_tenant, "acme", NOW_S)
    key = await db.call(db.keys.create, "acme", KeySpec("k"), NOW_S)
    row = {"id": "job", "kind": "sync", "tenant_id": tenant["id"], "key_id": key["id"]}
    row |= {"model": f"{MODEL}:mine", "request": None, "input_tokens": 0}
    row |= {"gateway_id": db.gateway_id}
    await db.call(db.ledger.add_job, row, gateway.clock.now_s())


async def test_what_one_published_another_does_not_publish_again(gateways: list[Gateway]) -> None:
    one, two = gateways
    await one.add()
    stamp = one.book.folder.stamp(MODEL)
    assert one.published() == ["lora-mine"]
    # It has not heard of the adapter, and looks before it takes it away.
    assert list(two.book) == []
    await two.book.publish()
    assert (two.published(), two.book.folder.stamp(MODEL)) == (["lora-mine"], stamp)


async def test_a_removed_adapter_stays_as_long_as_a_request_of_any_gateway_needs_it(
    gateways: list[Gateway],
) -> None:
    one, two = gateways
    adapter = await one.add()
    one.clock.advance(1.0)
    await begin_job(two)
    await one.book.remove(adapter)
    one.clock.advance(2 * LATE_S)
    for gateway in gateways:
        await gateway.book.publish()
        assert gateway.published() == ["lora-mine"]
    one.clock.advance(100.0)
    await two.book.publish()
    assert one.book.folder.file_of(adapter).path.exists()
    ended = Outcome("completed", 1, 1)
    assert await two.db.call(two.db.ledger.finish, "job", ended, Price(1, 1), NOW_S)
    await two.book.publish()
    assert one.published() == []
    assert not one.book.folder.file_of(adapter).path.exists()


async def test_a_removed_adapter_stays_while_another_gateway_may_not_know_of_it(
    gateways: list[Gateway],
) -> None:
    one, two = gateways
    adapter = await one.add()
    await two.book.refresh()
    one.clock.advance(1.0)
    await one.book.remove(adapter)
    assert two.book.find("anybody", f"{MODEL}:mine") is not None
    one.clock.advance(LATE_S - 1.0)
    await begin_job(two)
    for gateway in gateways:
        one.clock.advance(LATE_S)
        await gateway.book.refresh()
        await gateway.book.publish()
        assert gateway.published() == ["lora-mine"]


async def test_an_upload_goes_on_while_another_gateway_starts(
    gateways: list[Gateway], tmp_path: Path
) -> None:
    one, two = gateways
    adapter = one.adapter("mine")
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def content() -> AsyncIterator[bytes]:
        yield FILE[:100]
        begun.set()
        await go_on.wait()
        yield FILE[100:]

    await one.book.add(adapter)
    sending = asyncio.create_task(one.book.receive(adapter, content()))
    await begun.wait()
    third, db = AdapterBook(gateway_settings(tmp_path), one.clock), two.db
    await third.open(db, Dispatcher(db, {}, (), Meter(), one.clock))
    with pytest.raises(InvalidInputError, match="being sent"):
        await third.receive(adapter, pieces(FILE))
    go_on.set()
    assert (await sending).state == "ready"


async def test_an_upload_of_a_gateway_that_was_taken_for_dead_is_to_be_sent_again(
    gateways: list[Gateway],
) -> None:
    one, two = gateways
    adapter = one.adapter("mine")
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def content() -> AsyncIterator[bytes]:
        yield FILE
        begun.set()
        await go_on.wait()

    await one.book.add(adapter)
    sending = asyncio.create_task(one.book.receive(adapter, content()))
    await begun.wait()
    unseat(one.db._engine, "one")
    await two.db.call(two.db.adapters.recover)
    go_on.set()
    with pytest.raises(UnavailableError, match="given up"):
        await sending
    assert (await two.db.call(two.db.adapters.get, "lora-mine")).state == "pending"
    assert (await two.book.receive(adapter, pieces(FILE))).state == "ready"
