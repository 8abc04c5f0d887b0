"""Logins: which tokens of an identity provider open the door, and which do not."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import jwt
import pytest

from airan.core.clock import ManualClock
from airan.core.errors import AuthError, ConfigError, UnavailableError
from marketplace.gateway.settings import OidcSettings
from marketplace.oidc import OidcVerifier
from tests.marketplace.issuer import AUDIENCE, Issuer, new_ec_key, new_ed_key, running_issuer


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with running_issuer() as issuer:
        yield issuer


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_790_000_000.0)


@pytest.fixture
def verifier(issuer: Issuer, clock: ManualClock) -> OidcVerifier:
    return OidcVerifier(OidcSettings(issuer.url, AUDIENCE), clock)


async def test_a_good_token_tells_who_it_is(
    issuer: Issuer, verifier: OidcVerifier, clock: ManualClock
) -> None:
    for kid, key in (("ec", new_ec_key()), ("ed", new_ed_key())):
        issuer.keys[kid] = key
    for kid in issuer.keys:
        found = await verifier.verify(issuer.token(clock.now_s(), kid))
        assert (found.issuer, found.subject) == (issuer.url, "s1")
        assert (found.email, found.email_verified) == ("ada@acme.example", True)
    assert issuer.n_asked == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aud": "somebody-else"}, "Audience"),
        ({"aud": [AUDIENCE, "other"]}, "somebody else"),
        ({"azp": "other"}, "somebody else"),
        ({"iss": "https://evil.example"}, "issuer"),
        ({"sub": None}, "sub"),
        ({"exp": None}, "exp"),
        ({"exp": "tomorrow"}, "times"),
        ({"exp": 1e300}, "times"),
    ],
)
async def test_a_token_for_others_or_without_its_claims_is_refused(
    issuer: Issuer,
    verifier: OidcVerifier,
    clock: ManualClock,
    changes: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(AuthError, match=message):
        await verifier.verify(issuer.token(clock.now_s(), **changes))


async def test_clocks_may_differ_a_little_and_no_more(
    issuer: Issuer, verifier: OidcVerifier, clock: ManualClock
) -> None:
    now_s = clock.now_s()
    for shift_s in (-629, 29):
        assert (await verifier.verify(issuer.token(now_s + shift_s))).subject == "s1"
    with pytest.raises(AuthError, match="expired"):
        await verifier.verify(issuer.token(now_s - 631))
    with pytest.raises(AuthError, match="not valid yet"):
        await verifier.verify(issuer.token(now_s + 32))
    with pytest.raises(AuthError, match="not valid yet"):
        await verifier.verify(issuer.token(now_s, nbf=int(now_s) + 60))


def unsigned(claims: dict[str, Any], header: dict[str, Any]) -> str:
    parts = (json.dumps(header), json.dumps(claims), "")
    return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)


async def test_forged_tokens_are_refused(
    issuer: Issuer, verifier: OidcVerifier, clock: ManualClock
) -> None:
    good = issuer.token(clock.now_s())
    claims = jwt.decode(good, options={"verify_signature": False})
    head, _, tail = good.partition(".")
    other = Issuer()
    other.url, other.keys = issuer.url, {"k1": new_ec_key()}
    shared = "a secret that both sides know, and so could either of them sign"
    for forged in (
        unsigned(claims, {"alg": "none", "kid": "k1"}),
        jwt.encode(claims, shared, "HS256", headers={"kid": "k1"}),
        other.token(clock.now_s()),
        head + "." + tail[:-6] + ("A" * 6),
        "not a token",
        "",
        "a" * 20_000,
    ):
        with pytest.raises(AuthError):
            await verifier.verify(forged)


async def test_new_keys_are_taken_and_old_ones_dropped(
    issuer: Issuer, verifier: OidcVerifier, clock: ManualClock
) -> None:
    old = issuer.token(clock.now_s())
    await verifier.verify(old)
    issuer.keys = {"k2": new_ec_key()}
    new = issuer.token(clock.now_s(), "k2")
    clock.advance(31.0)
    assert (await verifier.verify(new)).subject == "s1"
    with pytest.raises(AuthError, match="key is unknown"):
        await verifier.verify(old)


async def test_unknown_keys_do_not_make_us_ask_all_the_time(
    issuer: Issuer, verifier: OidcVerifier, clock: ManualClock
) -> None:
    issuer.keys["ghost"] = new_ec_key()
    ghost = issuer.token(clock.now_s(), "ghost")
    del issuer.keys["ghost"]
    for _ in range(5):
        with pytest.raises(AuthError, match="key is unknown"):
            await verifier.verify(ghost)
    assert issuer.n_asked == 1


async def test_a_provider_that_fails_is_not_taken_for_a_refusal(
    issuer: Issuer, verifier: OidcVerifier, clock: ManualClock
) -> None:
    token = issuer.token(clock.now_s())
    issuer.broken = True
    for _ in range(2):
        with pytest.raises(UnavailableError, match="does not give its keys"):
            await verifier.verify(token)
    issuer.broken = False
    clock.advance(31.0)
    assert (await verifier.verify(issuer.token(clock.now_s()))).subject == "s1"
    # What is known stays good while it is fresh, and not for longer.
    issuer.broken = True
    clock.advance(600.0)
    await verifier.verify(issuer.token(clock.now_s()))
    clock.advance(3600.0)
    with pytest.raises(UnavailableError):
        await verifier.verify(issuer.token(clock.now_s()))


async def test_a_provider_that_calls_itself_otherwise_is_refused(
    issuer: Issuer, clock: ManualClock
) -> None:
    settings = OidcSettings(issuer.url + "/", AUDIENCE)
    with pytest.raises(UnavailableError):
        await OidcVerifier(settings, clock).verify(issuer.token(clock.now_s()))


def test_a_provider_without_https_is_refused_but_on_this_machine() -> None:
    OidcSettings("http://127.0.0.1:1234", AUDIENCE)
    good = OidcSettings("https://id.example", AUDIENCE)
    with pytest.raises(ConfigError, match="https"):
        replace(good, issuer="http://id.example")
    with pytest.raises(ConfigError, match="https"):
        replace(good, issuer="http://127.0.0.1.evil.example")
    with pytest.raises(ConfigError, match="audience"):
        replace(good, audience="")
