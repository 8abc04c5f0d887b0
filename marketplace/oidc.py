"""People's logins: ID tokens of an OpenID Connect provider, checked against its published keys.

Spec: OpenID Connect Core 1.0, 3.1.3.7 (ID token validation); Discovery 1.0, 4.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx
import jwt

from airan.core.clock import Clock
from airan.core.errors import AuthError, UnavailableError
from marketplace.gateway.settings import OidcSettings
from marketplace.principal import Identity

log = logging.getLogger(__name__)

_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")
"""Signatures by a key pair only: a secret that we shared could sign tokens itself."""
_OPTIONS: Any = {
    "require": ["exp", "iat", "iss", "aud", "sub"],
    # The times are compared with our own clock.
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
}
_MAX_TOKEN_CHARACTERS = 16_384
_LOGIN_REMEDY = "log in again at the identity provider"


class OidcVerifier:
    """Checks tokens. Runs in one event loop; the provider's keys are kept."""

    def __init__(self, settings: OidcSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_s: float | None = None
        self._tried_s: float | None = None
        self._fetching = asyncio.Lock()

    async def verify(self, token: str) -> Identity:
        """The identity that the token proves.

        Raises:
            AuthError: it proves none: signature, issuer, audience or time are wrong.
            UnavailableError: the provider's keys cannot be had.
        """
        if len(token) > _MAX_TOKEN_CHARACTERS:
            raise AuthError("the login token is too long", remedy=_LOGIN_REMEDY)
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in _ALGORITHMS:
                raise AuthError("the login token's algorithm is refused", remedy=_LOGIN_REMEDY)
            key = await self._key(str(header.get("kid", "")))
            claims = jwt.decode(
                token,
                key,
                algorithms=list(_ALGORITHMS),
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                options=_OPTIONS,
            )
        except jwt.PyJWTError as error:
            raise AuthError(f"the login token is refused: {error}", remedy=_LOGIN_REMEDY) from error
        return self._identity(claims)

    def _identity(self, claims: dict[str, Any]) -> Identity:
        now_s, leeway_s = self._clock.now_s(), self._settings.leeway_s
        times = [claims["exp"], claims["iat"], claims.get("nbf", claims["iat"])]
        if not all(isinstance(time, int | float) and time < 1e12 for time in times):
            raise AuthError("the login token's times are no numbers", remedy=_LOGIN_REMEDY)
        expires_s, issued_s, begins_s = (float(time) for time in times)
        if now_s >= expires_s + leeway_s:
            raise AuthError("the login has expired", remedy=_LOGIN_REMEDY)
        if now_s < max(issued_s, begins_s) - leeway_s:
            raise AuthError("the login is not valid yet", remedy="compare the clocks")
        audience = claims["aud"]
        # A token for several must say which of them asked for it.
        if isinstance(audience, list) and len(audience) > 1:
            claims.setdefault("azp", "")
        if claims.get("azp", self._settings.audience) != self._settings.audience:
            raise AuthError("the login token was issued to somebody else", remedy=_LOGIN_REMEDY)
        email = claims.get("email")
        return Identity(
            str(claims["iss"]),
            str(claims["sub"]),
            email if isinstance(email, str) else None,
            claims.get("email_verified") is True,
            expires_s + leeway_s,
        )

    async def _key(self, key_id: str) -> jwt.PyJWK:
        async with self._fetching:
            now_s = self._clock.monotonic_s()
            fresh = self._fetched_s is not None and (
                now_s - self._fetched_s < self._settings.keys_valid_s
            )
            waited = self._tried_s is None or now_s - self._tried_s >= self._settings.ask_again_s
            # A key that we do not know may be a new one; one that is gone must not stay valid.
            if (not fresh or key_id not in self._keys) and waited:
                self._tried_s = now_s
                self._keys = await self._fetch()
                self._fetched_s = now_s
            elif not fresh:
                raise _no_keys(self._settings.issuer)
        key = self._keys.get(key_id)
        if key is None:
            raise AuthError("the login token's key is unknown", remedy=_LOGIN_REMEDY)
        return key

    async def _fetch(self) -> dict[str, jwt.PyJWK]:
        issuer = self._settings.issuer
        url = issuer.rstrip("/") + "/.well-known/openid-configuration"
        try:
            async with httpx.AsyncClient(timeout=5.0, trust_env=False) as http:
                about = (await http.get(url)).raise_for_status().json()
                if about["issuer"] != issuer:
                    raise ValueError(f"it calls itself {about['issuer']!r}")
                answer = (await http.get(about["jwks_uri"])).raise_for_status().json()
            found = list(answer["keys"])
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            log.warning("identity provider %s: %s", issuer, error)
            raise _no_keys(issuer) from error
        return {str(one.get("kid", "")): key for one in found if (key := _usable(one)) is not None}


def _usable(values: Any) -> jwt.PyJWK | None:
    """The key, or None: providers publish kinds that are of no use here."""
    if not isinstance(values, dict) or values.get("use", "sig") != "sig":
        return None
    if values.get("kty") not in ("RSA", "EC", "OKP"):
        return None
    try:
        return jwt.PyJWK(values)
    except (jwt.PyJWTError, ValueError, KeyError):
        return None


def _no_keys(issuer: str) -> UnavailableError:
    return UnavailableError(
        f"the identity provider {issuer} does not give its keys", remedy="try again in a minute"
    )
