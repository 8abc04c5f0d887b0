"""Addresses of results too large for an answer: signed, good for an hour, one tenant's."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from marketplace.gateway.errors import ApiError

VALID_S = 3600
_KEY_BYTES = 32


class ResultLinks:
    """Signs and checks addresses with a key that is kept in the state folder."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "results.key"
        self._key = b""

    def query(self, job_id: str, tenant_id: str, now_s: float) -> str:
        """The query that opens the tenant's result until an hour from now."""
        expires = int(now_s) + VALID_S
        return f"expires={expires}&tenant={tenant_id}&signature=" + self._sign(
            job_id, tenant_id, expires
        )

    def check(
        self, job_id: str, tenant_id: str, expires: int, signature: str, now_s: float
    ) -> None:
        """Lets a valid address through.

        Raises:
            ApiError: 403, it is not ours, or it expired.
        """
        expected = self._sign(job_id, tenant_id, expires)
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            raise ApiError(403, "This address is not valid.", code="invalid_signature")
        if now_s >= expires:
            text = "This address has expired: ask /v2/nvcf/pexec/status for a new one."
            raise ApiError(403, text, code="expired")

    def _sign(self, job_id: str, tenant_id: str, expires: int) -> str:
        text = f"{job_id}\n{tenant_id}\n{expires}".encode()
        return hmac.new(self._load(), text, hashlib.sha256).hexdigest()

    def _load(self) -> bytes:
        if not self._key:
            try:
                fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                pass
            else:
                with os.fdopen(fd, "wb") as file:
                    file.write(secrets.token_bytes(_KEY_BYTES))
            key = self._path.read_bytes()
            if len(key) != _KEY_BYTES:
                raise ApiError(500, f"{self._path.name} is damaged: delete it.")
            self._key = key
        return self._key
