"""Who calls, and what that one may do: mutual TLS, and a role for every method.

The role is in the client's certificate. Over loopback without TLS the caller is `local`, an
admin: whoever is on the machine as the site's user can do all that anyway.
"""

from __future__ import annotations

import contextlib
import contextvars
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from airan.core.errors import AuthError, ConfigError, ForbiddenError
from orchestrator.api import certificates
from orchestrator.api.certificates import ROLES

# By service: what viewers, operators and admins may call.
_METHODS = {
    "SiteService": (
        "GetStatus WatchStatus ListEvents WatchEvents ListNodes ListGpus",
        "SetMaintenance",
        "ListAudit",
    ),
    "PolicyService": ("GetPolicy ListPlans GetPlan", "SetPolicy", ""),
    "CellService": ("ListCells", "ReportSlots", ""),
    "CapacityService": (
        "ListLeases WatchLeases",
        "AcquireLease ReleaseLease RevokeLease ReportUse",
        "",
    ),
}
ROLE_OF = {
    f"{service}/{method}": role
    for service, by_role in _METHODS.items()
    for role, methods in zip(ROLES, by_role, strict=True)
    for method in methods.split()
}
"""The least role that may call each method; what is not here, nobody may call."""

CHANGES = frozenset(
    f"{service}/{method}"
    for service, method in (
        ("SiteService", "SetMaintenance"),
        ("PolicyService", "SetPolicy"),
        ("CapacityService", "AcquireLease"),
        ("CapacityService", "ReleaseLease"),
        ("CapacityService", "RevokeLease"),
    )
)
"""Methods that change what is there: each call is recorded, and finished once it has begun."""


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of one side: its certificate and key, and the authority it trusts."""

    certificate: Path
    key: Path
    ca: Path

    @classmethod
    def of(cls, folder: Path, name: str) -> TlsFiles:
        """The files that `airan certs make` writes for one name."""
        return cls(folder / f"{name}.pem", folder / f"{name}.key", folder / "ca.pem")

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Certificate, key and authority.

        Raises:
            ConfigError: one of them cannot be read.
        """
        try:
            return self.certificate.read_bytes(), self.key.read_bytes(), self.ca.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"the TLS file {error.filename} cannot be read: {error.strerror}",
                remedy="make the files with `airan certs make`",
            ) from error


@dataclass(frozen=True)
class Caller:
    """Who calls: a certificate's common name and role."""

    actor: str
    role: str
    """`viewer`, `operator` or `admin`."""

    def require(self, role: str, what: str) -> None:
        """Returns if this caller's role is at least `role`.

        Raises:
            ForbiddenError: it is not.
        """
        if ROLES.index(self.role) < ROLES.index(role):
            raise ForbiddenError(
                f"{self.actor} is {self.role} and may not call {what}",
                remedy=f"it takes a certificate with the role {role}",
            )


LOCAL = Caller("local", "admin")
CALLER: contextvars.ContextVar[Caller] = contextvars.ContextVar("caller", default=LOCAL)
"""Who makes the call that is being answered."""


def caller_of(context: Any) -> Caller:
    """Who is at the other end of a call.

    Raises:
        AuthError: its certificate names nobody, or no role of ours.
    """
    auth = context.auth_context()
    if auth.get("transport_security_type") != [b"ssl"]:
        if not re.match(r"ipv4:127\.|ipv6:(\[|%5B)::1|unix:", context.peer()):
            raise AuthError(f"{context.peer()} calls without TLS")
        return LOCAL
    actor, role = certificates.read_subject(next(iter(auth.get("x509_pem_cert", ())), b""))
    if not actor or role not in ROLES:
        raise AuthError(
            f"the certificate of {actor or 'nobody'} carries no role (OU {role or 'none'!r})",
            remedy=f"make one with `airan certs make`: OU is one of {', '.join(ROLES)}",
        )
    return Caller(actor, role)


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """The server's side; clients without a certificate of our authority are turned away.

    Raises:
        ConfigError: a file cannot be read.
    """
    certificate, key, authority = files.read()
    return grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)


def channel_credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    """The client's side.

    Raises:
        ConfigError: a file cannot be read.
    """
    certificate, key, authority = files.read()
    return grpc.ssl_channel_credentials(authority, key, certificate)


def require_loopback(host: str) -> None:
    """Returns if the host is a loopback address.

    Raises:
        ConfigError: it is not; without TLS everybody who can connect is an admin.
    """
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return
    if host == "localhost":
        return
    raise ConfigError(
        f"the control plane must not listen on {host}: it is not a loopback address, and no TLS"
        " is configured",
        remedy="make certificates with `airan certs make`, or use 127.0.0.1",
    )
