"""A gateway that was given up and does not know yet: nothing that it does counts any more."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa

from airan.core.errors import UnavailableError
from marketplace.billing.quotes import Ask
from marketplace.federation.travel import Sending
from marketplace.functions import Function
from marketplace.money import Price
from marketplace.principal import Principal
from marketplace.store.accounts import Accounts
from marketplace.store.billing import reserve
from marketplace.store.connect import open_database, reading, writing
from marketplace.store.database import Database
from marketplace.store.functions import InvocationResult
from marketplace.store.idempotency import StoredAnswer
from marketplace.store.keys import Keys, KeySpec
from marketplace.store.schema import (
    batch_lines,
    batches,
    gateways,
    idempotency_keys,
    jobs,
    peer_sendings,
)
from marketplace.store.takeover import inherit
from tests.marketplace.test_seats import until_one_waits

FUNCTION = {
    "id": "f",
    "version_id": "v",
    "tenant_id": None,
    "name": "f",
    "created_s": 0.0,
    "url": "http://f",
    "inference_path": "/",
    "health_path": "/",
    "model": None,
    "timeout_s": 1.0,
    "max_response_bytes": 10,
    "price_micro_usd": 5,
}


@dataclass
class Site:
    """A gateway, `old`, and what goes on with its work."""

    engine: sa.Engine
    old: Database
    new: Database
    principal: Principal

    def give_up(self) -> Any:
        """The old one's seat is taken away, and its work with it."""
        with writing(self.engine) as db:
            db.execute(sa.delete(gateways).where(gateways.c.id == "old"))
            return inherit(db, "new", None, 1.0)

    def column(self, column: Any) -> list[Any]:
        with reading(self.engine) as db:
            return list(db.execute(sa.select(column)).scalars())

    def job(self, name: str, gateway_id: str = "old") -> dict[str, Any]:
        row = {"id": name, "kind": "async", "tenant_id": self.principal.tenant_id}
        row |= {"key_id": self.principal.key_id, "model": "m", "request": "{}"}
        return row | {"input_tokens": 1, "gateway_id": gateway_id}

    def accept(self, name: str) -> None:
        ask = Ask(self.principal, "m", "default", 1, 1)
        self.old.billing.accept(self.job(name), ask, Price(1, 1), 0.0)

    def batch(self, gateway_id: str = "old") -> dict[str, Any]:
        document = {"id": "b", "status": "in_progress", "created_at": 0}
        row = {"id": "b", "tenant_id": self.principal.tenant_id, "state": "in_progress"}
        row |= {"key_id": self.principal.key_id, "document": document, "created_s": 0.0}
        return row | {"via": "", "narrows": None, "gateway_id": gateway_id}


@pytest.fixture
def site(postgres_url: str) -> Iterator[Site]:
    engine = open_database(postgres_url)
    made = Accounts(engine).create_tenant("acme", 0.0)
    key = Keys(engine).create("acme", KeySpec("k"), 0.0)
    seen = {"url": "", "report": "{}", "seen_s": 0.0, "ended": False}
    with writing(engine) as db:
        for number, name in enumerate(("old", "new")):
            db.execute(sa.insert(gateways).values(id=name, number=number, **seen))
    principal = Keys(engine).principal(key["id"])
    assert principal.tenant_id == made["id"]
    old, new = (Database(postgres_url, name) for name in ("old", "new"))
    yield Site(engine, old, new, principal)
    old.close()
    new.close()
    engine.dispose()


def test_it_takes_on_nothing_that_would_be_nobodys(site: Site) -> None:
    site.give_up()
    function = site.new.functions.add(FUNCTION, 9)
    with pytest.raises(UnavailableError, match="taken for dead"):
        site.accept("late")
    with pytest.raises(UnavailableError, match="taken for dead"):
        site.old.functions.accept("late", site.principal, function, b"{}", 2.0)
    with pytest.raises(UnavailableError, match="taken for dead"):
        site.old.idempotency.claim("owner", "key", "print", 2.0)
    with pytest.raises(UnavailableError, match="taken for dead"):
        site.old.batches.add_batch(site.batch())
    for table in (jobs, idempotency_keys, batches):
        with reading(site.engine) as db:
            assert db.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() == 0
    assert site.new.idempotency.claim("owner", "key", "print", 2.0).kind == "run"


def test_what_it_takes_on_while_it_is_given_up_is_its_heirs(site: Site) -> None:
    ask = Ask(site.principal, "m", "default", 1, 1)
    left: list[Any] = []
    giving_up = threading.Thread(target=lambda: left.append(site.give_up()))
    with writing(site.engine) as db:
        reserve(db, site.job("just-in-time"), ask, Price(1, 1), 0.0)
        giving_up.start()
        until_one_waits(site.engine)
    giving_up.join()
    assert [row["id"] for row in left[0].jobs] == ["just-in-time"]


def test_a_key_that_another_gateway_has_claimed_anew_stays_taken(site: Site) -> None:
    assert site.old.idempotency.claim("owner", "key", "print", 0.0).kind == "run"
    site.give_up()
    assert site.new.idempotency.claim("owner", "key", "print", 1.0).kind == "run"
    site.old.idempotency.reopen("owner", "key", 2)
    site.old.idempotency.keep("owner", "key", StoredAnswer(200, (), b"old"))
    assert site.new.idempotency.claim("owner", "key", "print", 1.0).kind == "busy"
    site.new.idempotency.keep("owner", "key", StoredAnswer(200, (), b"new"))
    answer = site.new.idempotency.claim("owner", "key", "print", 1.0).answer
    assert answer is not None
    assert answer.body == b"new"


def test_a_batch_that_is_anothers_is_left_as_it_is(site: Site) -> None:
    site.old.batches.add_batch(site.batch())
    site.give_up()
    document = site.batch()["document"] | {"status": "completed", "output_file_id": "file-1"}
    assert site.new.batches.save_batch(document)
    assert not site.old.batches.save_batch(document | {"status": "in_progress"})
    site.old.batches.add_line("b", 0, True, "it was cut off")
    assert site.column(batches.c.state) == ["completed"]
    assert site.column(batch_lines.c.answer) == []
    site.new.batches.add_line("b", 0, False, "answer")
    assert site.column(batch_lines.c.answer) == ["answer"]


def test_a_batch_is_cancelled_from_anywhere_unless_it_has_just_ended(site: Site) -> None:
    site.old.batches.add_batch(site.batch())
    cancelling = site.batch()["document"] | {"status": "cancelling"}
    ended = site.batch()["document"] | {"status": "completed", "output_file_id": "file-1"}
    assert site.new.batches.ask_to_cancel(cancelling)
    assert site.old.batches.cancelling("old") == ["b"]
    assert site.old.batches.save_batch(ended)
    # Its client read it before it had ended.
    assert not site.new.batches.ask_to_cancel(cancelling)
    assert json.loads(site.column(batches.c.document)[0]) == ended


def test_an_invocation_that_is_anothers_keeps_that_ones_result(site: Site) -> None:
    function: Function = site.new.functions.add(FUNCTION, 9)
    site.old.functions.accept("call", site.principal, function, b"{}", 0.0)
    assert site.give_up().invocations == ["call"]
    site.new.functions.begin_attempt("call", 1.0)
    site.new.functions.keep_result("call", InvocationResult(200, "text/plain", b"new"))
    site.old.functions.begin_attempt("call", 2.0)
    site.old.functions.keep_result("call", InvocationResult(200, "text/plain", b"old"))
    result = site.new.functions.result("call")
    assert result is not None
    assert result.body == b"new"
    assert [one.attempts for one in site.new.functions.open_invocations(["call"])] == [1]


def test_what_is_at_a_peer_is_its_heirs_to_account_for(site: Site) -> None:
    site.accept("job")
    sending = Sending("job", "peer", "invocation", "via", "policy", 0.0)
    site.old.sendings.begin(sending)
    assert site.give_up().sent == ["job"]
    site.new.sendings.accepted("job", "peer", "there")
    site.old.sendings.accepted("job", "peer", "elsewhere")
    site.old.sendings.end("job", "peer", "unheard", None)
    assert site.new.sendings.open(["job"])["job"].remote_id == "there"
    with pytest.raises(UnavailableError, match="another gateway's"):
        site.old.sendings.begin(Sending("job", "other", "invocation", "via", "policy", 1.0))
    site.new.sendings.end("job", "peer", "answered", None)
    assert site.column(peer_sendings.c.state) == ["answered"]
