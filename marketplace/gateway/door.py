"""Who may come in: keys, people's logins and the admin key."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from fastapi import Request

from airan.core.clock import Clock
from marketplace.gateway.errors import ApiError, invalid_api_key, not_allowed
from marketplace.gateway.reading import bearer_key
from marketplace.gateway.settings import GatewaySettings
from marketplace.keys import KEY_PREFIX, key_hash
from marketplace.principal import Principal, Scope
from marketplace.store.database import Database

if TYPE_CHECKING:
    from marketplace.oidc import OidcVerifier

_KEY_CACHE_S = 5.0
_MAX_CACHED_KEYS = 10_000


class Door:
    """Runs in one event loop; use open() first."""

    def __init__(self, settings: GatewaySettings, clock: Clock) -> None:
        self._clock = clock
        self._keys: dict[str, tuple[float, Principal]] = {}
        admin_key = settings.read_admin_key()
        self._admin_key = hashlib.sha256(admin_key.encode()).digest()
        self._admin_open = bool(admin_key)
        self._oidc = _verifier(settings, clock)

    def open(self, database: Database) -> None:
        """Looks keys up there from now on."""
        self._db = database

    async def authenticate(self, request: Request, scope: Scope = "inference") -> Principal:
        """Whom the request's key, or a person's login token, speaks for.

        Raises:
            ApiError: 401, or 403 where it may not do what `scope` says.
            UnavailableError: the identity provider cannot be asked.
        """
        return await self.authenticate_key(bearer_key(request), scope)

    async def authenticate_key(self, key: str, scope: Scope = "inference") -> Principal:
        """The same for a key that did not come in an HTTP header.

        Raises:
            ApiError: 401, or 403 where it may not do what `scope` says.
            UnavailableError: the identity provider cannot be asked.
        """
        if not key:
            raise invalid_api_key()
        hashed, now_s = key_hash(key), self._clock.monotonic_s()
        cached = self._keys.get(hashed)
        if cached is None or cached[0] <= now_s:
            cached = self._keys[hashed] = (now_s + _KEY_CACHE_S, await self._look_up(key, hashed))
        principal = cached[1]
        if principal.expires_s is not None and self._clock.now_s() >= principal.expires_s:
            raise invalid_api_key()
        if not principal.may(scope):
            raise not_allowed(f"do what needs the scope {scope!r}")
        return principal

    async def _look_up(self, key: str, hashed: str) -> Principal:
        # Of keys that nobody uses any more none is kept.
        self._keys = {one: kept for one, kept in self._keys.items() if one != hashed}
        if len(self._keys) > _MAX_CACHED_KEYS:
            self._keys.clear()
        now_s = self._clock.now_s()
        if self._oidc is not None and not key.startswith(KEY_PREFIX):
            identity = await self._oidc.verify(key)
            principal = await self._db.call(self._db.users.login, identity, now_s)
        else:
            principal = await self._db.call(self._db.keys.authenticate, key, now_s)
        if principal is None:
            raise invalid_api_key()
        return principal

    def forget_keys(self) -> None:
        """Has every key looked up again; called when one was revoked."""
        self._keys.clear()

    def check_admin(self, request: Request) -> None:
        """Lets the admin key through.

        Raises:
            ApiError: 401 for a wrong key, 403 where there is no admin key.
        """
        if not self._admin_open:
            raise ApiError(403, "This gateway has no admin key, so /admin/v1 is closed.")
        given = hashlib.sha256(bearer_key(request).encode()).digest()
        if not hmac.compare_digest(given, self._admin_key):
            raise ApiError(
                401,
                "No valid admin key: send it in the header `Authorization: Bearer <key>`.",
                code="invalid_admin_key",
            )


def _verifier(settings: GatewaySettings, clock: Clock) -> OidcVerifier | None:
    if settings.oidc is None:
        return None
    # A site without logins does without the library for them.
    from marketplace.oidc import OidcVerifier

    return OidcVerifier(settings.oidc, clock)
