"""Addresses of results too large for an answer: signed, good for an hour, one tenant's."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable

from marketplace.gateway.errors import ApiError

VALID_S = 3600


class ResultLinks:
    """Signs and checks addresses with the key that `ask_key` gives, asked once: all gateways of
    a database, and those after them, must have the same."""

    def __init__(self, ask_key: Callable[[], Awaitable[bytes]]) -> None:
        self._ask_key = ask_key
        self._key = b""

    async def query(self, job_id: str, tenant_id: str, now_s: float) -> str:
        """The query that opens the tenant's result until an hour from now."""
        expires = int(now_s) + VALID_S
        signature = await self._sign(job_id, tenant_id, expires)
        return f"expires={expires}&tenant={tenant_id}&signature={signature}"

    async def check(
        self, job_id: str, tenant_id: str, expires: int, signature: str, now_s: float
    ) -> None:
        """Lets a valid address through.

        Raises:
            ApiError: 403, it is not ours, or it expired.
            UnavailableError: the key cannot be read.
        """
        expected = await self._sign(job_id, tenant_id, expires)
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            raise ApiError(403, "This address is not valid.", code="invalid_signature")
        if now_s >= expires:
            text = "This address has expired: ask /v2/nvcf/pexec/status for a new one."
            raise ApiError(403, text, code="expired")

    async def _sign(self, job_id: str, tenant_id: str, expires: int) -> str:
        if not self._key:
            self._key = await self._ask_key()
        text = f"{job_id}\n{tenant_id}\n{expires}".encode()
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()
