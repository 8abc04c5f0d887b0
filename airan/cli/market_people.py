"""`airan project`, `user`: what a tenant's keys are sorted by, and who may log in."""

from __future__ import annotations

from typing import Annotated

import typer

from airan.cli.market import JsonFlag, admin, wants_json, when
from airan.cli.output import console, emit_json, table

project_app = typer.Typer(help="Projects: parts of a tenant.", no_args_is_help=True)
user_app = typer.Typer(help="People who log in for a tenant.", no_args_is_help=True)
TenantFilter = Annotated[str | None, typer.Option("--tenant", help="Only this tenant's.")]


def register(app: typer.Typer) -> None:
    """Adds this module's commands."""
    app.add_typer(project_app, name="project")
    app.add_typer(user_app, name="user")


@project_app.command("create")
def create_project(context: typer.Context, tenant: str, name: str, json: JsonFlag = False) -> None:
    """Add a project to a tenant."""
    made = admin(context, "POST", "/admin/v1/projects", {"tenant": tenant, "name": name})
    if wants_json(context, json):
        emit_json(made)
    else:
        console.print(f"project {made['name']} has the id {made['id']}")


@project_app.command("list")
def list_projects(
    context: typer.Context, tenant: TenantFilter = None, json: JsonFlag = False
) -> None:
    """List the projects."""
    params = {"tenant": tenant} if tenant else None
    rows = admin(context, "GET", "/admin/v1/projects", params=params)["data"]
    if wants_json(context, json):
        emit_json(rows)
        return
    shown = [
        (p["id"], p["tenant"], p["name"], "archived" if p["archived_s"] else "open") for p in rows
    ]
    table("Projects", ("id", "tenant", "name", "state"), shown)


@project_app.command("archive")
def archive_project(context: typer.Context, project_id: str, json: JsonFlag = False) -> None:
    """End a project, and the keys in it."""
    done = admin(context, "DELETE", f"/admin/v1/projects/{project_id}")
    if wants_json(context, json):
        emit_json(done)
    else:
        console.print(f"project {project_id} is archived; its keys are valid no longer")


@user_app.command("add")
def add_user(
    context: typer.Context,
    tenant: str,
    email: str,
    role: Annotated[str, typer.Option(help="owner, member or viewer.")] = "member",
    json: JsonFlag = False,
) -> None:
    """Let a person log in for a tenant."""
    body = {"tenant": tenant, "email": email, "role": role}
    made = admin(context, "POST", "/admin/v1/users", body)
    if wants_json(context, json):
        emit_json(made)
    else:
        console.print(f"{made['email']} may log in as {made['role']}; the id is {made['id']}")


@user_app.command("list")
def list_users(context: typer.Context, tenant: TenantFilter = None, json: JsonFlag = False) -> None:
    """List the people."""
    params = {"tenant": tenant} if tenant else None
    rows = admin(context, "GET", "/admin/v1/users", params=params)["data"]
    if wants_json(context, json):
        emit_json(rows)
        return
    shown = [
        (
            u["id"],
            u["tenant"],
            u["email"],
            u["role"],
            "disabled" if u["disabled_s"] else "valid",
            when(u["last_login_s"]),
        )
        for u in rows
    ]
    table("People", ("id", "tenant", "address", "role", "state", "last login"), shown)


@user_app.command("disable")
def disable_user(context: typer.Context, user_id: str, json: JsonFlag = False) -> None:
    """End a person's access."""
    done = admin(context, "DELETE", f"/admin/v1/users/{user_id}")
    if wants_json(context, json):
        emit_json(done)
    else:
        console.print(f"user {user_id} is disabled")
