"""Tenants, projects, people and keys: who may do what, and until when."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airan.core.errors import InvalidInputError, NotFoundError
from marketplace.principal import DEFAULT_SCOPES, Identity, Principal
from marketplace.store.keys import KeySpec
from marketplace.store.users import Users
from tests.marketplace.books import NOW_S, Shop


@pytest.fixture
def shop(database_url: str) -> Iterator[Shop]:
    shop = Shop(database_url)
    shop.tenant()
    yield shop
    shop.close()


def test_a_key_speaks_for_its_project_with_its_scopes_and_models(shop: Shop) -> None:
    project = shop.accounts.create_project("acme", "web", NOW_S)
    spec = KeySpec("site", "web", ("billing:read", "inference"), ("base",))
    made = shop.keys.create("acme", spec, NOW_S)
    assert made["key"].startswith(made["prefix"])
    found = shop.keys.authenticate(made["key"], NOW_S)
    assert found is not None
    assert (found.project_id, found.key_id) == (project["id"], made["id"])
    assert found == shop.keys.principal(made["id"])
    assert found.may("inference")
    assert found.may("billing:read")
    assert not found.may("keys:write")
    assert found.may_use("base")
    assert found.may_use("base:adapter")
    assert not found.may_use("other")
    (listed,) = shop.keys.list(found.tenant_id)
    assert listed["scopes"] == ["inference", "billing:read"]
    assert not {"key", "sha256"} & listed.keys()


def test_a_key_ends_at_its_time(shop: Shop) -> None:
    made = shop.keys.create("acme", KeySpec(expires_s=NOW_S + 10), NOW_S)
    assert shop.keys.authenticate(made["key"], NOW_S + 9.9) is not None
    assert shop.keys.authenticate(made["key"], NOW_S + 10) is None
    with pytest.raises(InvalidInputError, match="in the future"):
        shop.keys.create("acme", KeySpec(expires_s=NOW_S), NOW_S)


def test_a_rotated_key_is_valid_for_its_grace_and_its_successor_after_it(shop: Shop) -> None:
    shop.accounts.create_project("acme", "web", NOW_S)
    old = shop.keys.create("acme", KeySpec("k", "web", ("files",), ("m",)), NOW_S)
    new = shop.keys.rotate(old["id"], 60.0, NOW_S)
    assert new["key"] != old["key"]
    before, after = (shop.keys.authenticate(one["key"], NOW_S + 59) for one in (old, new))
    assert before is not None
    assert after is not None
    assert (after.project_id, after.scopes, after.models) == (
        before.project_id,
        before.scopes,
        before.models,
    )
    assert shop.keys.authenticate(old["key"], NOW_S + 60) is None
    assert shop.keys.authenticate(new["key"], NOW_S + 60) is not None
    with pytest.raises(InvalidInputError, match="rotated already"):
        shop.keys.rotate(old["id"], 60.0, NOW_S + 1)
    with pytest.raises(NotFoundError, match="valid no longer"):
        shop.keys.rotate(old["id"], 60.0, NOW_S + 61)


def test_rotation_gives_no_key_a_longer_life(shop: Shop) -> None:
    old = shop.keys.create("acme", KeySpec(expires_s=NOW_S + 10), NOW_S)
    new = shop.keys.rotate(old["id"], 3600.0, NOW_S)
    for one in (old, new):
        assert shop.keys.authenticate(one["key"], NOW_S + 10) is None


def test_the_latest_use_of_a_key_is_known_to_a_minute(shop: Shop) -> None:
    made = shop.keys.create("acme", KeySpec(), NOW_S)
    for after_s in (5, 30, 64):
        shop.keys.authenticate(made["key"], NOW_S + after_s)
    assert shop.keys.list()[0]["last_used_s"] == NOW_S + 5
    shop.keys.authenticate(made["key"], NOW_S + 65)
    assert shop.keys.list()[0]["last_used_s"] == NOW_S + 65


def test_the_keys_of_an_archived_project_are_valid_no_longer(shop: Shop) -> None:
    project = shop.accounts.create_project("acme", "web", NOW_S)
    made = shop.keys.create("acme", KeySpec(project="web"), NOW_S)
    shop.accounts.archive_project(project["id"], NOW_S)
    shop.accounts.archive_project(project["id"], NOW_S + 1)
    assert shop.accounts.list_projects("acme")[0]["archived_s"] == NOW_S
    assert shop.keys.authenticate(made["key"], NOW_S) is None
    with pytest.raises(NotFoundError):
        shop.keys.create("acme", KeySpec(project="web"), NOW_S)


def test_no_tenant_reaches_the_keys_or_projects_of_another(shop: Shop) -> None:
    beta = shop.tenant("beta")
    shop.accounts.create_project("acme", "web", NOW_S)
    made = shop.keys.create("acme", KeySpec(), NOW_S)
    assert shop.keys.list(beta) == []
    with pytest.raises(NotFoundError):
        shop.keys.revoke(made["id"], NOW_S, beta)
    with pytest.raises(NotFoundError):
        shop.keys.rotate(made["id"], 0.0, NOW_S, beta)
    with pytest.raises(NotFoundError):
        shop.keys.create("beta", KeySpec(project="web"), NOW_S)
    # A tenant that calls itself by another's id does not become it.
    shop.tenant(beta)
    assert shop.accounts.tenant(beta)["name"] == "beta"
    assert shop.keys.authenticate(made["key"], NOW_S) is not None


def test_unknown_scopes_terms_and_doubles_are_refused(shop: Shop) -> None:
    for scopes in (("root",), ()):
        with pytest.raises(InvalidInputError, match="must be some of"):
            shop.keys.create("acme", KeySpec(scopes=scopes), NOW_S)
    with pytest.raises(InvalidInputError, match="postpaid, prepaid"):
        shop.accounts.create_tenant("x", NOW_S, "free")
    shop.accounts.create_project("acme", "web", NOW_S)
    with pytest.raises(InvalidInputError, match="exists already"):
        shop.accounts.create_project("acme", "web", NOW_S)
    assert "keys:write" not in DEFAULT_SCOPES


def identity(
    email: str | None = "ada@acme.example", subject: str = "s1", verified: bool = True
) -> Identity:
    return Identity("https://id.example", subject, email, verified, NOW_S + 3600)


def test_a_person_is_found_by_address_once_and_by_subject_from_then_on(shop: Shop) -> None:
    users = Users(shop.engine)
    made = users.create("acme", "Ada@Acme.example", "owner", NOW_S)
    assert users.login(identity(verified=False), NOW_S) is None
    found = users.login(identity(), NOW_S)
    assert isinstance(found, Principal)
    assert (found.user_id, found.key_id, found.expires_s) == (made["id"], "", NOW_S + 3600)
    assert found.may("keys:write")
    assert not found.may("inference")
    # The address is somebody else's at the provider by now: it opens nothing.
    assert users.login(identity(subject="s2"), NOW_S) is None
    assert users.login(identity("new@acme.example"), NOW_S) == found
    assert users.list("acme")[0]["last_login_s"] == NOW_S
    users.disable(made["id"], NOW_S)
    assert users.login(identity(), NOW_S) is None


@pytest.mark.parametrize("email", ["ada", "@acme", "ada@", "a@b@c", "a da@acme.example"])
def test_what_is_no_address_is_refused(shop: Shop, email: str) -> None:
    with pytest.raises(InvalidInputError, match="e-mail"):
        Users(shop.engine).create("acme", email, "viewer", NOW_S)


def test_a_person_belongs_to_one_tenant_in_a_known_role(shop: Shop) -> None:
    users = Users(shop.engine)
    users.create("acme", "ada@acme.example", "viewer", NOW_S)
    with pytest.raises(InvalidInputError, match="a user already"):
        users.create("acme", "ADA@acme.example", "owner", NOW_S)
    with pytest.raises(InvalidInputError, match="role"):
        users.create("acme", "eve@acme.example", "root", NOW_S)
