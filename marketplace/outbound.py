"""Calls to addresses that tenants name: only where the operator, or the open internet, allows.

A tenant that could have the gateway call any address would reach what only the gateway may reach:
the engines, the database, a cloud's metadata service. So a host must be on the operator's list, or
(for webhooks) have none but public addresses. What is checked is the address that is connected to,
after the name was resolved: a name that leads elsewhere the next moment gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from airan.core.errors import InvalidInputError

MAX_URL = 2048
_PORTS = {"http": 80, "https": 443}
# Addresses that carry an IPv4 address inside, which a gateway on the way would unpack.
_TUNNELS = tuple(
    map(ipaddress.IPv6Network, ("2002::/16", "2001::/32", "64:ff9b::/96", "64:ff9b:1::/48"))
)


class ForbiddenAddressError(InvalidInputError):
    """The address is not one that may be called."""


@dataclass(frozen=True)
class AllowedHosts:
    """The operator's list: `host` (any port) or `host:port`, each exactly as URLs name it."""

    entries: frozenset[str]

    @classmethod
    def of(cls, entries: Iterable[str]) -> AllowedHosts:
        """From a configuration."""
        return cls(frozenset(entry.strip().lower() for entry in entries))

    def allows(self, host: str, port: int) -> bool:
        """Whether that port of that host is on the list."""
        host = host.lower()
        name = f"[{host}]" if ":" in host else host
        return name in self.entries or f"{name}:{port}" in self.entries

    def check_listed(self, field: str, url: str) -> str:
        """The URL, whose host is on the list.

        Raises:
            InvalidInputError: it is no http or https URL, or its host is not on the list.
        """
        parts = split_url(field, url)
        if not self.allows(parts.hostname or "", port_of(parts)):
            raise ForbiddenAddressError(
                field,
                f"the host {parts.hostname!r} is not one that functions may run on here",
                remedy="ask the operator to add it to the marketplace's function hosts",
            )
        return url

    def check_public(self, field: str, url: str) -> str:
        """The URL, whose host is on the list, or else a name or public address over https.

        Raises:
            InvalidInputError: it is none of those.
        """
        parts = split_url(field, url)
        host = parts.hostname or ""
        if self.allows(host, port_of(parts)):
            return url
        if parts.scheme != "https":
            raise ForbiddenAddressError(field, "must be an https URL")
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return url
        if not is_public(address):
            raise ForbiddenAddressError(field, f"{host} is no public address")
        return url


class PublicResolver(AbstractResolver):
    """Resolves names to public addresses only; hosts on the list, to whatever they have."""

    def __init__(self, allowed: AllowedHosts) -> None:
        self._allowed = allowed
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """See AbstractResolver.resolve.

        Raises:
            OSError: the name has an address that is not public.
        """
        found = await self._resolver.resolve(host, port, family)
        if self._allowed.allows(host, port):
            return found
        for one in found:
            if not is_public(ipaddress.ip_address(one["host"])):
                raise OSError(f"{host} leads to {one['host']}, which is no public address")
        return found

    async def close(self) -> None:
        """See AbstractResolver.close."""
        await self._resolver.close()


def session(allowed: AllowedHosts) -> aiohttp.ClientSession:
    """A client that resolves so, keeps no cookies, and knows nothing of proxies."""
    connector = aiohttp.TCPConnector(
        resolver=PublicResolver(allowed), use_dns_cache=False, limit=256
    )
    return aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
    )


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether it belongs to the open internet."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if any(address in tunnel for tunnel in _TUNNELS):
            return False
    return address.is_global and not address.is_multicast


def split_url(field: str, url: str) -> SplitResult:
    """The parts of an http or https URL without credentials or fragment.

    Raises:
        InvalidInputError: it is none.
    """
    problem = f"must be an http or https URL of at most {MAX_URL} characters, with a host"
    if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidInputError(field, problem)
    try:
        parts = urlsplit(url)
        port_of(parts)
    except (ValueError, KeyError) as error:
        raise InvalidInputError(field, problem) from error
    if not parts.hostname or "\\" in url:
        raise InvalidInputError(field, problem)
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise InvalidInputError(field, "must have no credentials and no fragment")
    return parts


def port_of(parts: SplitResult) -> int:
    """The URL's port, or its scheme's."""
    return parts.port or _PORTS[parts.scheme]
