"""People: added by their e-mail address, known by their identity provider's name for them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from airan.core.errors import InvalidInputError, NotFoundError
from marketplace.principal import ROLE_SCOPES, Identity, Principal
from marketplace.store.accounts import new_id, tenant_id_of
from marketplace.store.connect import reading, writing
from marketplace.store.schema import tenants, users


class Users:
    """All calls are blocking and safe from several threads."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def create(self, tenant: str, email: str, role: str, now_s: float) -> dict[str, Any]:
        """Lets the person with that address log in for the tenant of that name or id.

        Raises:
            NotFoundError: there is no such tenant.
            InvalidInputError: there is no such role, or the address is no address or is taken.
        """
        if role not in ROLE_SCOPES:
            raise InvalidInputError("role", f"must be one of {', '.join(ROLE_SCOPES)}")
        name, at, host = email.partition("@")
        if not (name and at and host) or "@" in host or any(map(str.isspace, email)):
            raise InvalidInputError("email", f"{email!r} is no e-mail address")
        try:
            with writing(self._engine) as db:
                row = {
                    "id": new_id("user"),
                    "tenant_id": tenant_id_of(db, tenant),
                    "email": email.lower(),
                    "role": role,
                    "created_s": now_s,
                }
                db.execute(sa.insert(users).values(row))
        except IntegrityError as error:
            raise InvalidInputError("email", f"{email!r} is a user already") from error
        return row

    def list(self, tenant: str | None = None) -> list[dict[str, Any]]:
        """People with their tenants' names, oldest first.

        Raises:
            NotFoundError: there is no such tenant.
        """
        query = sa.select(users, tenants.c.name.label("tenant")).join(tenants)
        with reading(self._engine) as db:
            if tenant is not None:
                query = query.where(users.c.tenant_id == tenant_id_of(db, tenant))
            rows = db.execute(query.order_by(users.c.created_s)).mappings()
            return [dict(row) for row in rows]

    def disable(self, user_id: str, now_s: float) -> None:
        """Ends a person's access. Idempotent.

        Raises:
            NotFoundError: there is no such user.
        """
        end = sa.func.coalesce(users.c.disabled_s, now_s)
        change = sa.update(users).where(users.c.id == user_id).values(disabled_s=end)
        with writing(self._engine) as db:
            if not db.execute(change).rowcount:
                raise NotFoundError(f"user {user_id!r} does not exist")

    def login(self, identity: Identity, now_s: float) -> Principal | None:
        """Whom the identity speaks for; None if it is nobody's here.

        The first login finds the person by a verified e-mail address and notes issuer and
        subject; from then on these alone count, whatever becomes of the address.
        """
        known = sa.and_(users.c.issuer == identity.issuer, users.c.subject == identity.subject)
        with writing(self._engine) as db:
            row = db.execute(sa.select(users).where(known)).mappings().first()
            if row is None and identity.email is not None and identity.email_verified:
                new = sa.select(users).where(
                    users.c.email == identity.email.lower(), users.c.subject.is_(None)
                )
                row = db.execute(new).mappings().first()
            if row is None or row["disabled_s"] is not None:
                return None
            values = {
                "issuer": identity.issuer,
                "subject": identity.subject,
                "last_login_s": now_s,
            }
            db.execute(sa.update(users).where(users.c.id == row["id"]).values(values))
        return Principal(
            row["tenant_id"],
            "",
            scopes=ROLE_SCOPES[row["role"]],
            expires_s=identity.expires_s,
            user_id=row["id"],
        )
