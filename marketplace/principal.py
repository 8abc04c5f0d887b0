"""Who asks, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from airan.core.errors import InvalidInputError

Scope = Literal["inference", "files", "billing:read", "keys:write"]
Role = Literal["owner", "member", "viewer"]
SCOPES: tuple[Scope, ...] = ("inference", "files", "billing:read", "keys:write")
ALL_SCOPES = frozenset[str](SCOPES)
DEFAULT_SCOPES: tuple[Scope, ...] = ("inference", "files", "billing:read")
"""Of a key made without naming any: it can do all but make further keys."""
ROLE_SCOPES: dict[str, frozenset[str]] = {
    "owner": frozenset({"billing:read", "keys:write"}),
    "member": frozenset({"billing:read"}),
    "viewer": frozenset({"billing:read"}),
}
"""What people may do with their login. Jobs are run with keys alone: they have budgets, quotas
and an end, and can be given to a program."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a valid key or login speaks for."""

    tenant_id: str
    key_id: str
    """Empty for people."""
    project_id: str | None = None
    scopes: frozenset[str] = ALL_SCOPES
    models: frozenset[str] | None = None
    """Models that may be used; None: all."""
    expires_s: float | None = None
    """Unix time from which it speaks for nobody; None: never."""
    user_id: str | None = None
    is_peer: bool = False
    """Whether it is another site, whose work runs in the tier flex, while compute is free."""

    def may(self, scope: Scope) -> bool:
        """Whether the scope is among those granted."""
        return scope in self.scopes

    def may_use(self, model: str) -> bool:
        """Whether the model is allowed; a base model allows its adapters (`base:adapter`)."""
        if self.models is None:
            return True
        return model in self.models or model.partition(":")[0] in self.models


@dataclass(frozen=True)
class Identity:
    """Whom a login token of an identity provider speaks for."""

    issuer: str
    subject: str
    email: str | None
    email_verified: bool
    expires_s: float


def checked_scopes(scopes: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """The scopes in their usual order, each once.

    Raises:
        InvalidInputError: one is unknown, or there is none.
    """
    unknown = sorted(set(scopes) - ALL_SCOPES)
    if unknown or not scopes:
        raise InvalidInputError("scopes", f"must be some of {', '.join(SCOPES)}, got {scopes!r}")
    return tuple(scope for scope in SCOPES if scope in scopes)
