"""Webhook endpoints and the outbox. All calls are blocking and safe from several threads."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, or_, select, update

from airan.core.errors import InvalidInputError, NotFoundError
from marketplace import webhooks
from marketplace.store.connect import reading, writing
from marketplace.store.schema import events, tenants
from marketplace.store.schema import webhook_attempts as attempts
from marketplace.store.schema import webhook_deliveries as deliveries
from marketplace.store.schema import webhook_endpoints as endpoints

MAX_ENDPOINTS = 20
LOG_KEPT_S = 30 * 86_400.0
_SHOWN = ("id", "url", "events", "state", "reason", "failing_since_s", "created_s")
_GONE = 410


@dataclass(frozen=True)
class Delivery:
    """A message that is to be sent to an endpoint now."""

    endpoint_id: str
    message_id: str
    url: str
    body: str
    secrets: tuple[str, ...]
    """The present one, and for a while the one before."""
    attempts: int


@dataclass(frozen=True)
class Attempt:
    """What came of sending a message once. Without `status`, there was no answer."""

    time_s: float
    duration_ms: float
    status: int | None = None
    error: str | None = None
    pause_s: float | None = None
    """Until the next one, if this one failed; None: there is none."""

    @property
    def delivered(self) -> bool:
        """Whether the endpoint took the message."""
        return self.status is not None and 200 <= self.status < 300


def enqueue(
    db: Connection,
    tenant_id: str,
    event_type: str,
    subject: str,
    data: dict[str, Any],
    now_s: float,
) -> None:
    """Puts a message into the outbox, within the transaction that makes the event true.

    `subject` tells the event from others of its type: about the same one there is one message.
    """
    query = select(endpoints.c.id, endpoints.c.events).where(
        endpoints.c.tenant_id == tenant_id, endpoints.c.state == "enabled"
    )
    for row in db.execute(query).all():
        if event_type in json.loads(row.events):
            _add(db, row.id, event_type, subject, data, now_s)


class Webhooks:
    """Each method that takes a tenant's id sees that tenant's endpoints only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def tenant_id(self, tenant: str) -> str:
        """The id of the tenant of that name or id.

        Raises:
            NotFoundError: there is none.
        """
        tenant = tenant.replace("\0", "")
        query = select(tenants.c.id).where(or_(tenants.c.id == tenant, tenants.c.name == tenant))
        with reading(self._engine) as db:
            found = db.execute(query).scalar()
        if found is None:
            raise NotFoundError(f"tenant {tenant!r} does not exist")
        return str(found)

    def add(self, tenant_id: str, url: str, types: list[str], now_s: float) -> dict[str, Any]:
        """Adds an endpoint; only this answer, and a rotation's, holds the secret.

        Raises:
            InvalidInputError: the tenant has too many.
        """
        row = {
            "id": "we_" + secrets.token_hex(12),
            "tenant_id": tenant_id,
            "url": url,
            "events": json.dumps(types),
            "state": "enabled",
            "secret": webhooks.new_secret(),
            "created_s": now_s,
        }
        with writing(self._engine) as db:
            query = select(func.count()).where(endpoints.c.tenant_id == tenant_id)
            if db.execute(query).scalar_one() >= MAX_ENDPOINTS:
                text = f"there are {MAX_ENDPOINTS} endpoints already"
                raise InvalidInputError("url", text, remedy="delete one")
            db.execute(insert(endpoints).values(row))
        return self.get(tenant_id, str(row["id"])) | {"secret": row["secret"]}

    def of_tenant(self, tenant_id: str) -> list[dict[str, Any]]:
        """The tenant's endpoints, oldest first, without their secrets."""
        query = select(endpoints).where(endpoints.c.tenant_id == tenant_id)
        with reading(self._engine) as db:
            rows = db.execute(query.order_by(endpoints.c.created_s, endpoints.c.id)).mappings()
            return [_shown(dict(row)) for row in rows]

    def get(self, tenant_id: str, endpoint_id: str) -> dict[str, Any]:
        """One of the tenant's endpoints, without its secret.

        Raises:
            NotFoundError: there is none of that id.
        """
        with reading(self._engine) as db:
            return _shown(_find(db, tenant_id, endpoint_id))

    def remove(self, tenant_id: str, endpoint_id: str) -> None:
        """Deletes an endpoint with its outbox and log.

        Raises:
            NotFoundError: there is none of that id.
        """
        with writing(self._engine) as db:
            _find(db, tenant_id, endpoint_id)
            for table in (attempts, deliveries):
                db.execute(delete(table).where(table.c.endpoint_id == endpoint_id))
            db.execute(delete(endpoints).where(endpoints.c.id == endpoint_id))

    def rotate(
        self, tenant_id: str, endpoint_id: str, grace_s: float, now_s: float
    ) -> dict[str, Any]:
        """Gives the endpoint a new secret; for `grace_s` the old one signs beside it.

        Raises:
            NotFoundError: there is none of that id.
        """
        secret = webhooks.new_secret()
        with writing(self._engine) as db:
            row = _find(db, tenant_id, endpoint_id)
            values = {"secret": secret, "old_secret": row["secret"]}
            values["old_secret_until_s"] = now_s + grace_s
            db.execute(update(endpoints).where(endpoints.c.id == endpoint_id).values(values))
        return _shown(row) | {"secret": secret}

    def enable(self, tenant_id: str, endpoint_id: str, now_s: float) -> dict[str, Any]:
        """Lets a disabled endpoint have messages again; what waited for it is sent now.

        Raises:
            NotFoundError: there is none of that id.
        """
        with writing(self._engine) as db:
            _find(db, tenant_id, endpoint_id)
            values = {"state": "enabled", "reason": None, "failing_since_s": None}
            db.execute(update(endpoints).where(endpoints.c.id == endpoint_id).values(values))
            waiting = update(deliveries).where(
                deliveries.c.endpoint_id == endpoint_id, deliveries.c.state == "pending"
            )
            db.execute(waiting.values(next_attempt_s=now_s))
        return self.get(tenant_id, endpoint_id)

    def send_test(self, tenant_id: str, endpoint_id: str, now_s: float) -> str:
        """Puts a test message into the endpoint's outbox; its id.

        Raises:
            NotFoundError: there is none of that id.
        """
        subject = secrets.token_hex(12)
        data = {"endpoint": endpoint_id}
        with writing(self._engine) as db:
            _find(db, tenant_id, endpoint_id)
            return _add(db, endpoint_id, webhooks.TEST_EVENT, subject, data, now_s)

    def resend(self, tenant_id: str, endpoint_id: str, message_id: str, now_s: float) -> None:
        """Has a message sent anew, from the beginning of its schedule.

        Raises:
            NotFoundError: there is no such message for that endpoint.
        """
        query = update(deliveries).where(
            deliveries.c.endpoint_id == endpoint_id, deliveries.c.message_id == message_id
        )
        with writing(self._engine) as db:
            _find(db, tenant_id, endpoint_id)
            values = {"state": "pending", "attempts": 0, "next_attempt_s": now_s}
            if not db.execute(query.values(values)).rowcount:
                raise NotFoundError(f"message {message_id!r} does not exist")

    def deliveries(self, tenant_id: str, endpoint_id: str, limit: int) -> list[dict[str, Any]]:
        """The endpoint's latest messages, newest first, each with its attempts, oldest first.

        Raises:
            NotFoundError: there is none of that id.
        """
        sent = select(deliveries).where(deliveries.c.endpoint_id == endpoint_id)
        sent = sent.order_by(deliveries.c.created_s.desc(), deliveries.c.message_id).limit(limit)
        with reading(self._engine) as db:
            _find(db, tenant_id, endpoint_id)
            found = [dict(row) for row in db.execute(sent).mappings()]
            ids = [row["message_id"] for row in found]
            tried = select(attempts).where(
                attempts.c.endpoint_id == endpoint_id, attempts.c.message_id.in_(ids)
            )
            log = [dict(row) for row in db.execute(tried.order_by(attempts.c.seq)).mappings()]
        for row in found:
            row["log"] = [
                {name: one[name] for name in ("time_s", "duration_ms", "status", "error")}
                for one in log
                if one["message_id"] == row["message_id"]
            ]
        return found

    # The sender's side

    def due(self, now_s: float, limit: int, per_tenant: int) -> list[Delivery]:
        """Messages whose time has come, the longest due first; of a tenant's at most so many."""
        place = func.row_number().over(
            partition_by=endpoints.c.tenant_id,
            order_by=(deliveries.c.next_attempt_s, deliveries.c.message_id),
        )
        ready = select(
            deliveries,
            endpoints.c.url,
            endpoints.c.secret,
            endpoints.c.old_secret,
            endpoints.c.old_secret_until_s,
            place.label("place"),
        ).join_from(deliveries, endpoints)
        ready = ready.where(
            deliveries.c.state == "pending",
            deliveries.c.next_attempt_s <= now_s,
            endpoints.c.state == "enabled",
        )
        fair = ready.subquery()
        query = select(fair).where(fair.c.place <= per_tenant)
        with reading(self._engine) as db:
            rows = db.execute(query.order_by(fair.c.next_attempt_s).limit(limit)).all()
        found = []
        for row in rows:
            old = row.old_secret if (row.old_secret_until_s or 0.0) > now_s else None
            signing = (row.secret,) if old is None else (row.secret, old)
            found.append(
                Delivery(row.endpoint_id, row.message_id, row.url, row.body, signing, row.attempts)
            )
        return found

    def record(self, delivery: Delivery, attempt: Attempt) -> None:
        """Keeps what came of an attempt, and disables an endpoint that fails for too long."""
        now_s = attempt.time_s
        with writing(self._engine) as db:
            found = db.execute(
                select(endpoints).where(endpoints.c.id == delivery.endpoint_id)
            ).mappings()
            endpoint = found.first()
            if endpoint is None:
                return  # deleted meanwhile
            log: dict[str, Any] = {
                "endpoint_id": delivery.endpoint_id,
                "message_id": delivery.message_id,
            }
            log |= {"time_s": now_s, "duration_ms": attempt.duration_ms}
            log |= {"status": attempt.status, "error": attempt.error}
            db.execute(insert(attempts).values(log))
            state = "delivered" if attempt.delivered else "pending"
            if state == "pending" and attempt.pause_s is None:
                state = "failed"
            values = {"state": state, "attempts": delivery.attempts + 1}
            values["next_attempt_s"] = now_s + (attempt.pause_s or 0.0)
            db.execute(
                update(deliveries)
                .where(
                    deliveries.c.endpoint_id == delivery.endpoint_id,
                    deliveries.c.message_id == delivery.message_id,
                )
                .values(values)
            )
            health = _health(dict(endpoint), attempt)
            if health:
                db.execute(update(endpoints).where(endpoints.c.id == endpoint["id"]).values(health))
            if health.get("state") == "disabled":
                _note_disabled(db, endpoint["id"], health["reason"], now_s)

    def purge(self, now_s: float) -> None:
        """Deletes what ended so long ago that the log needs it no more."""
        before_s = now_s - LOG_KEPT_S
        with writing(self._engine) as db:
            db.execute(delete(attempts).where(attempts.c.time_s < before_s))
            old = deliveries.c.created_s < before_s
            db.execute(delete(deliveries).where(old, deliveries.c.state != "pending"))


def _health(endpoint: dict[str, Any], attempt: Attempt) -> dict[str, Any]:
    """What an attempt changes about its endpoint."""
    since_s = endpoint["failing_since_s"]
    if attempt.delivered:
        return {} if since_s is None else {"failing_since_s": None}
    if attempt.status == _GONE:
        return {"state": "disabled", "reason": "it answered 410 Gone"}
    if since_s is None:
        return {"failing_since_s": attempt.time_s}
    if attempt.time_s - since_s >= webhooks.DISABLE_AFTER_S:
        days = webhooks.DISABLE_AFTER_S / 86_400
        return {"state": "disabled", "reason": f"it took no message for {days:.0f} days"}
    return {}


def _note_disabled(db: Connection, endpoint_id: str, reason: str, now_s: float) -> None:
    row = {"kind": "webhook.disabled", "severity": "warning", "time_s": now_s}
    db.execute(insert(events).values(row | {"message": f"webhook {endpoint_id}: {reason}"}))


def _add(
    db: Connection,
    endpoint_id: str,
    event_type: str,
    subject: str,
    data: dict[str, Any],
    now_s: float,
) -> str:
    message = webhooks.message_id(event_type, subject)
    known = select(deliveries.c.message_id).where(
        deliveries.c.endpoint_id == endpoint_id, deliveries.c.message_id == message
    )
    if db.execute(known).first() is None:
        row = {"endpoint_id": endpoint_id, "message_id": message, "type": event_type}
        row |= {"body": webhooks.message_body(event_type, now_s, data), "state": "pending"}
        times = {"attempts": 0, "next_attempt_s": now_s, "created_s": now_s}
        db.execute(insert(deliveries).values(row | times))
    return message


def _find(db: Connection, tenant_id: str, endpoint_id: str) -> dict[str, Any]:
    # PostgreSQL refuses even to look for a text with a NUL.
    endpoint_id = endpoint_id.replace("\0", "")
    query = select(endpoints).where(
        endpoints.c.id == endpoint_id, endpoints.c.tenant_id == tenant_id
    )
    row = db.execute(query).mappings().first()
    if row is None:
        raise NotFoundError(f"webhook {endpoint_id!r} does not exist")
    return dict(row)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    shown = {name: row[name] for name in _SHOWN}
    return shown | {"events": json.loads(row["events"])}
