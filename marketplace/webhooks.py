"""Webhooks by the Standard Webhooks rules: what is signed, how, and when it is tried again.

Spec: https://www.standardwebhooks.com, version 1.0.0, symmetric signatures (v1).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from airan.core.errors import InvalidInputError

SECRET_PREFIX = "whsec_"
_SECRET_BYTES = 32
TOLERANCE_S = 300.0

RETRY_SCHEDULE_S = (
    5.0,
    5 * 60.0,
    30 * 60.0,
    2 * 3600.0,
    5 * 3600.0,
    10 * 3600.0,
    14 * 3600.0,
    20 * 3600.0,
    24 * 3600.0,
)
"""Pauses after each attempt that failed; the first attempt is at once."""
DISABLE_AFTER_S = 5 * 86_400.0
"""How long an endpoint may fail without a single success."""
TEST_EVENT = "webhook.test"
EVENT_TYPES = (
    "job.completed",
    "job.failed",
    "job.cancelled",
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
    "budget.alert",
)
_MESSAGES = uuid.UUID("5a4dd0f4-3c3f-4a63-8a4e-6f2f7f3a9c21")


def new_secret() -> str:
    """A new signing secret."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def message_id(event_type: str, subject: str) -> str:
    """The id of the one message about that event; the same however often it is made."""
    return "msg_" + uuid.uuid5(_MESSAGES, f"{event_type}\0{subject}").hex


def message_body(event_type: str, time_s: float, data: dict[str, Any]) -> str:
    """The payload: type, when it happened, and what."""
    moment = datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds")
    payload = {"type": event_type, "timestamp": moment.replace("+00:00", "Z"), "data": data}
    return json.dumps(payload, separators=(",", ":"))


def signature_headers(
    message: str, time_s: float, body: str, signing: Iterable[str]
) -> dict[str, str]:
    """The three headers; one signature for each of the secrets in `signing`."""
    stamp = int(time_s)
    signatures = [_signature(secret, message, stamp, body.encode()) for secret in signing]
    return {
        "webhook-id": message,
        "webhook-timestamp": str(stamp),
        "webhook-signature": " ".join(signatures),
    }


def verify(secret: str, headers: dict[str, str], body: bytes, now_s: float) -> Any:
    """The payload of a message that is genuine and recent; for receivers.

    `headers`: names in lower case.

    Raises:
        InvalidInputError: it is not, or it is no webhook at all.
    """
    try:
        message, stamp = headers["webhook-id"], int(headers["webhook-timestamp"])
        given = headers["webhook-signature"].split(" ")
    except (KeyError, ValueError) as error:
        raise InvalidInputError("headers", "these are not a webhook's") from error
    if abs(now_s - stamp) > TOLERANCE_S:
        raise InvalidInputError("webhook-timestamp", f"is more than {TOLERANCE_S:.0f} s off")
    expected = _signature(secret, message, stamp, body).encode()
    if not any(hmac.compare_digest(expected, one.encode()) for one in given):
        raise InvalidInputError("webhook-signature", "none of the signatures is right")
    return json.loads(body)


def check_events(events: Any) -> list[str]:
    """The event types, each once.

    Raises:
        InvalidInputError: one of them is none.
    """
    if not isinstance(events, list) or not events:
        raise InvalidInputError("events", f"must be a list of some of {', '.join(EVENT_TYPES)}")
    for one in events:
        if one not in EVENT_TYPES:
            raise InvalidInputError("events", f"{one!r} is none of {', '.join(EVENT_TYPES)}")
    return [one for one in EVENT_TYPES if one in events]


def _signature(secret: str, message: str, stamp: int, body: bytes) -> str:
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error as error:
        raise InvalidInputError("secret", "is no whsec_ secret") from error
    signed = f"{message}.{stamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
