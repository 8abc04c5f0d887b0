"""Webhooks: what is signed and stored, and which addresses are called at all."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import aiohttp
import hypothesis
import pytest
import sqlalchemy as sa
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError
from standardwebhooks import Webhook, WebhookVerificationError

from airan.core.errors import InvalidInputError, NotFoundError
from marketplace import webhooks
from marketplace.billing.limits import BudgetSpec
from marketplace.outbound import AllowedHosts
from marketplace.outbound import session as outbound_session
from marketplace.store.batches import Batches
from marketplace.store.ledger import Outcome
from marketplace.store.schema import jobs, usage, webhook_deliveries
from marketplace.store.webhooks import LOG_KEPT_S, Attempt, Delivery, Webhooks
from tests.marketplace.books import NOW_S, PRICE, Shop
from tests.marketplace.container import running_container

URL = "https://hooks.example/in"
DAY_S = 86_400.0
# Of the specification's own libraries.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE, STAMP, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, '{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.fixture
def shop(database_url: str) -> Iterator[Shop]:
    shop = Shop(database_url)
    yield shop
    assert shop.books.check()["problems"] == []
    shop.close()


class Outbox:
    """A tenant's endpoint, and jobs of the tenant's that end."""

    def __init__(self, shop: Shop, name: str = "acme") -> None:
        self.shop, self.store = shop, Webhooks(shop.engine)
        self.tenant_id = shop.tenant(name)
        self.who = shop.principal(name)
        self.endpoint = self.add()

    def add(self, *events: str) -> str:
        types = list(events or webhooks.EVENT_TYPES)
        made = self.store.add(self.tenant_id, URL, types, NOW_S)
        return str(made["id"])

    def end_job(self, state: str = "completed", kind: str = "async") -> str:
        job_id = self.shop.accept(self.who, 10, 10).job_id
        with self.shop.engine.begin() as db:
            db.execute(sa.update(jobs).where(jobs.c.id == job_id).values(kind=kind))
        self.shop.ledger.finish(job_id, Outcome(state, 10, 5), PRICE, NOW_S)
        return job_id

    def due(self, now_s: float = NOW_S) -> list[Delivery]:
        return self.store.due(now_s, 100, 100)

    def try_once(self, status: int, now_s: float, pause_s: float | None = 1.0) -> None:
        (delivery,) = self.due(now_s)
        self.store.record(delivery, Attempt(now_s, 1.0, status, None, pause_s))

    def shown(self) -> dict:
        return self.store.get(self.tenant_id, self.endpoint)


@pytest.fixture
def outbox(shop: Shop) -> Outbox:
    return Outbox(shop)


def test_messages_are_signed_as_the_specification_says() -> None:
    headers = webhooks.signature_headers(MESSAGE, STAMP, BODY, [SECRET])
    assert headers == {
        "webhook-id": MESSAGE,
        "webhook-timestamp": str(STAMP),
        "webhook-signature": SIGNATURE,
    }
    assert webhooks.verify(SECRET, headers, BODY.encode(), STAMP) == {"test": 2432232314}


@hypothesis.given(data=st.dictionaries(st.text(max_size=20), st.text(max_size=40), max_size=4))
def test_the_specifications_own_library_and_ours_verify_each_other(data: dict[str, str]) -> None:
    now_s, body = time.time(), json.dumps(data, ensure_ascii=False)
    secret, old = webhooks.new_secret(), webhooks.new_secret()
    headers = webhooks.signature_headers("msg_1", now_s, body, [secret, old])
    for one in (secret, old):
        assert Webhook(one).verify(body, headers) == data
    for forged in ({"webhook-id": "msg_2"}, {"webhook-timestamp": str(int(now_s) - 1)}):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, headers | forged)
    with pytest.raises(WebhookVerificationError):
        Webhook(webhooks.new_secret()).verify(body, headers)
    stamp = datetime.fromtimestamp(int(now_s), UTC)
    theirs = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(now_s)),
        "webhook-signature": Webhook(secret).sign("msg_1", stamp, body),
    }
    assert webhooks.verify(secret, theirs, body.encode(), now_s) == data


@pytest.mark.parametrize(
    ("changes", "body", "late_s"),
    [
        ({"webhook-id": "msg_other"}, BODY, 0),
        ({"webhook-timestamp": str(STAMP + 1)}, BODY, 0),
        ({"webhook-signature": "v1,AAAA"}, BODY, 0),
        ({"webhook-signature": SIGNATURE.replace("v1,", "v2,")}, BODY, 0),
        ({"webhook-timestamp": "soon"}, BODY, 0),
        ({}, BODY + " ", 0),
        ({}, BODY, webhooks.TOLERANCE_S + 1),
        ({}, BODY, -webhooks.TOLERANCE_S - 1),
    ],
)
def test_what_was_changed_or_is_old_is_not_genuine(
    changes: dict[str, str], body: str, late_s: float
) -> None:
    headers = webhooks.signature_headers(MESSAGE, STAMP, BODY, [SECRET]) | changes
    with pytest.raises(InvalidInputError):
        webhooks.verify(SECRET, headers, body.encode(), STAMP + late_s)


def test_a_jobs_end_and_its_message_are_stored_together_or_not_at_all(
    outbox: Outbox, shop: Shop
) -> None:
    if shop.engine.dialect.name != "sqlite":
        pytest.skip("the trigger is SQLite's")
    with shop.engine.begin() as db:
        db.exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON webhook_deliveries "
            "BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        )
    with pytest.raises(IntegrityError):
        outbox.end_job()
    with shop.engine.begin() as db:
        assert db.execute(sa.select(jobs.c.state)).scalars().all() == ["queued"]
        db.exec_driver_sql("DROP TRIGGER full")
    assert shop.count(usage) == 0
    outbox.end_job()
    assert (shop.count(usage), shop.count(webhook_deliveries)) == (1, 1)


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
def test_the_end_of_a_job_is_told_once(outbox: Outbox, shop: Shop, state: str) -> None:
    job_id = outbox.end_job(state)
    assert not shop.ledger.finish(job_id, Outcome("completed", 1, 1), PRICE, NOW_S)
    (delivery,) = outbox.due()
    told = json.loads(delivery.body)
    assert (told["type"], told["timestamp"]) == (f"job.{state}", "2026-09-21T14:13:20.000Z")
    assert (told["data"]["id"], told["data"]["output_tokens"]) == (job_id, 5)


def test_a_job_whose_client_waits_for_it_is_not_told(outbox: Outbox) -> None:
    outbox.end_job(kind="sync")
    assert outbox.due() == []


def test_each_endpoint_gets_the_events_it_asked_for(outbox: Outbox) -> None:
    failures = outbox.add("job.failed")
    outbox.end_job()
    assert [one.endpoint_id for one in outbox.due()] == [outbox.endpoint]
    outbox.end_job("failed")
    assert sorted(one.endpoint_id for one in outbox.due()) == sorted(
        [outbox.endpoint, outbox.endpoint, failures]
    )


def test_the_end_of_a_batch_is_told_once(outbox: Outbox, shop: Shop) -> None:
    batches = Batches(shop.engine)
    document = {"id": "batch_1", "status": "in_progress", "created_at": 5}
    row = {"id": "batch_1", "tenant_id": outbox.tenant_id, "key_id": outbox.who.key_id}
    row |= {"state": "in_progress", "document": document, "created_s": NOW_S}
    batches.add_batch(row)
    assert outbox.due() == []
    ended = document | {"status": "completed", "completed_at": 7, "output_file_id": "file_1"}
    for _ in range(2):
        batches.save_batch(ended)
    (delivery,) = outbox.due()
    told = json.loads(delivery.body)
    assert (told["type"], told["timestamp"]) == ("batch.completed", "1970-01-01T00:00:07.000Z")
    assert told["data"]["output_file_id"] == "file_1"


def test_a_budgets_alert_is_told_once_for_each_threshold(outbox: Outbox, shop: Shop) -> None:
    spec = BudgetSpec("tenant", "", "month", 10_000, hard=False, alerts_percent=(50, 100))
    budget = shop.billing.set_budget("acme", spec, NOW_S)
    reached = []
    for _ in range(4):
        shop.finish(shop.accept(outbox.who, 1000, 1000).job_id, 1000, 700)
        told = [json.loads(one.body) for one in outbox.due()]
        reached.append(sorted(one["data"]["reached_percent"] for one in told))
    assert reached == [[], [50], [50], [50, 100]]
    assert {one["data"]["id"] for one in told} == {budget["id"]}
    assert {one["type"] for one in told} == {"budget.alert"}


def test_a_message_that_failed_comes_again_after_its_pause_until_it_is_given_up(
    outbox: Outbox,
) -> None:
    outbox.end_job()
    outbox.try_once(500, NOW_S, pause_s=60.0)
    assert outbox.due(NOW_S + 59) == []
    outbox.try_once(503, NOW_S + 60, pause_s=None)
    assert outbox.due(NOW_S + 10 * DAY_S) == []
    (message,) = outbox.store.deliveries(outbox.tenant_id, outbox.endpoint, 10)
    assert (message["state"], message["attempts"]) == ("failed", 2)
    assert [one["status"] for one in message["log"]] == [500, 503]
    outbox.store.resend(outbox.tenant_id, outbox.endpoint, message["message_id"], NOW_S)
    (again,) = outbox.due()
    assert (again.message_id, again.attempts) == (message["message_id"], 0)


def test_an_endpoint_that_fails_for_days_is_disabled_and_may_be_enabled(outbox: Outbox) -> None:
    outbox.end_job()
    outbox.try_once(500, NOW_S)
    outbox.try_once(500, NOW_S + webhooks.DISABLE_AFTER_S - 1)
    assert outbox.shown()["state"] == "enabled"
    late_s = NOW_S + webhooks.DISABLE_AFTER_S
    outbox.try_once(500, late_s)
    shown = outbox.shown()
    assert (shown["state"], shown["reason"]) == ("disabled", "it took no message for 5 days")
    outbox.end_job()
    assert outbox.due(late_s + DAY_S) == []
    outbox.store.enable(outbox.tenant_id, outbox.endpoint, late_s)
    # What waited is sent; what happened while it was disabled is not.
    outbox.try_once(200, late_s)
    assert outbox.due(late_s + DAY_S) == []
    shown = outbox.shown()
    assert (shown["state"], shown["failing_since_s"]) == ("enabled", None)


def test_a_success_ends_the_count_of_failing_days(outbox: Outbox) -> None:
    outbox.end_job()
    outbox.try_once(500, NOW_S)
    outbox.try_once(204, NOW_S + DAY_S)
    outbox.end_job()
    outbox.try_once(500, NOW_S + webhooks.DISABLE_AFTER_S + 1)
    assert outbox.shown()["state"] == "enabled"


def test_an_endpoint_that_is_gone_is_disabled_at_once(outbox: Outbox) -> None:
    outbox.end_job()
    outbox.try_once(410, NOW_S)
    assert (outbox.shown()["state"], outbox.shown()["reason"]) == (
        "disabled",
        "it answered 410 Gone",
    )


def test_a_rotated_secret_signs_beside_the_new_one_for_a_while(outbox: Outbox) -> None:
    outbox.end_job()
    (before,) = outbox.due()
    made = outbox.store.rotate(outbox.tenant_id, outbox.endpoint, 60.0, NOW_S)
    (during,), (after,) = outbox.due(NOW_S + 59), outbox.due(NOW_S + 60)
    assert during.secrets == (made["secret"], *before.secrets)
    assert after.secrets == (made["secret"],)
    headers = webhooks.signature_headers("msg_1", NOW_S, "{}", during.secrets)
    for secret in during.secrets:
        assert webhooks.verify(secret, headers, b"{}", NOW_S) == {}


def test_a_tenant_sees_its_own_endpoints_only(outbox: Outbox, shop: Shop) -> None:
    other = Outbox(shop, "umbrella")
    message = other.store.send_test(other.tenant_id, other.endpoint, NOW_S)
    store, mine, theirs = outbox.store, outbox.tenant_id, other.endpoint
    for attempt in (
        lambda: store.get(mine, theirs),
        lambda: store.remove(mine, theirs),
        lambda: store.rotate(mine, theirs, 0.0, NOW_S),
        lambda: store.enable(mine, theirs, NOW_S),
        lambda: store.send_test(mine, theirs, NOW_S),
        lambda: store.deliveries(mine, theirs, 10),
        lambda: store.resend(mine, theirs, message, NOW_S),
    ):
        with pytest.raises(NotFoundError):
            attempt()
    assert [one["id"] for one in store.of_tenant(mine)] == [outbox.endpoint]
    outbox.end_job()
    assert [one.endpoint_id for one in outbox.due() if one.message_id != message] == [
        outbox.endpoint
    ]


def test_a_tenant_with_much_to_send_does_not_hold_up_the_others(outbox: Outbox, shop: Shop) -> None:
    for _ in range(6):
        outbox.end_job()
    other = Outbox(shop, "umbrella")
    other.end_job()
    due = outbox.store.due(NOW_S, 5, 4)
    assert [one.endpoint_id for one in due].count(other.endpoint) == 1
    assert len(due) == 5


def test_old_messages_are_forgotten_but_not_those_that_wait(outbox: Outbox) -> None:
    outbox.end_job()
    outbox.try_once(200, NOW_S)
    outbox.end_job()
    outbox.store.purge(NOW_S + LOG_KEPT_S + 1)
    kept = outbox.store.deliveries(outbox.tenant_id, outbox.endpoint, 10)
    assert [one["state"] for one in kept] == ["pending"]


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://10.1.2.3/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::a00:1]/",
        "https://[fd00::1]/",
        "https://100.64.0.1/",
        "https://0.0.0.0/",
        "https://224.0.0.1/",
        "http://hooks.example/",
        "https://user:secret@hooks.example/",
        "ftp://hooks.example/",
        "https://hooks.example\\@127.0.0.1/",
        "https:///in",
        "https://hooks.example/#x",
        "https://hooks.example:99999/",
        "https://hooks.example/" + "x" * 2048,
    ],
)
def test_addresses_inside_are_no_webhooks(url: str) -> None:
    with pytest.raises(InvalidInputError):
        AllowedHosts.of([]).check_public("url", url)


@pytest.mark.parametrize("url", [URL, "https://1.1.1.1:8443/x?y=z", "http://127.0.0.1:9000/in"])
def test_addresses_outside_or_on_the_operators_list_are(url: str) -> None:
    assert AllowedHosts.of(["127.0.0.1:9000"]).check_public("url", url) == url


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f.0.0.1"])
async def test_a_name_that_leads_inside_is_not_called(host: str) -> None:
    async with running_container() as inside:
        port = int(inside.host.rpartition(":")[2])
        async with outbound_session(AllowedHosts.of([])) as http:
            with pytest.raises(aiohttp.ClientError):
                await http.post(f"http://{host}:{port}/", data=b"x")
        assert inside.received == []
        # It is the rule that kept it from there.
        async with outbound_session(AllowedHosts.of(["localhost"])) as http:
            await http.post(f"http://localhost:{port}/", data=b"x")
        assert len(inside.received) == 1


def test_ids_tell_the_event_and_not_the_moment() -> None:
    first = webhooks.message_id("job.completed", "a")
    assert first == webhooks.message_id("job.completed", "a")
    assert first != webhooks.message_id("job.failed", "a")
    assert first.startswith("msg_")
    assert webhooks.message_body("t", time.time(), {}).startswith('{"type":"t","timestamp":"2')
