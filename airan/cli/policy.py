"""`airan policy`: how the GPUs are divided."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from airan.cli.asking import JsonFlag, ask, wants_json
from airan.cli.output import console, emit_json, table
from airan.core.errors import ConfigError, InvalidInputError
from orchestrator.api.client import ControlClient
from orchestrator.policy import CalendarEntry, Policy, Reservation
from orchestrator.views import PolicyChange

policy_app = typer.Typer(help="How the GPUs are divided.", no_args_is_help=True)

_FIELDS = tuple(field.name for field in dataclasses.fields(Policy))


@policy_app.command("get")
def get_policy(context: typer.Context, json: JsonFlag = False) -> None:
    """Show the policy in force."""
    policy = ask(context, lambda client: client.get_policy())
    if wants_json(context, json):
        emit_json(policy)
    else:
        table("Policy", ("key", "value"), [(name, _text(policy, name)) for name in _FIELDS])


@policy_app.command("set")
def set_policy(
    context: typer.Context,
    kind: Annotated[
        str | None, typer.Argument(help="static, time_of_day or demand; default: as it is.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="YAML with any of the policy's keys; options win over it.")
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(help='Calendar entry, "mon,tue 07:00=0.7"; repeatable, replaces all.'),
    ] = None,
    reserve: Annotated[
        list[str] | None, typer.Option(help="TENANT=SMS; repeatable, replaces all.")
    ] = None,
    ran_share: Annotated[float | None, typer.Option(help="static: RAN's part.")] = None,
    headroom: Annotated[float | None, typer.Option(help="demand: kept above forecast.")] = None,
    min_ran_share: Annotated[float | None, typer.Option(help="RAN never gets less.")] = None,
    max_ran_share: Annotated[float | None, typer.Option(help="RAN never gets more.")] = None,
    min_ai_share: Annotated[float | None, typer.Option(help="AI never gets less.")] = None,
    max_ai_share: Annotated[float | None, typer.Option(help="AI never gets more.")] = None,
    hysteresis_share: Annotated[
        float | None, typer.Option(help="demand: gain that is worth a revocation.")
    ] = None,
    min_lease_s: Annotated[float | None, typer.Option(help="demand: shortest lease.")] = None,
    notice_ms: Annotated[int | None, typer.Option(help="Time a holder gets to pause.")] = None,
    unit: Annotated[str | None, typer.Option(help="slice or gpu: what is divided.")] = None,
    drift: Annotated[str | None, typer.Option(help="mend or report.")] = None,
    time_zone: Annotated[str | None, typer.Option(help="IANA name, for the calendar.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Only show what it would lead to.")] = False,
    json: JsonFlag = False,
) -> None:
    """Put a policy in force; what neither the file nor an option names keeps its value."""
    changes = _from_file(file) if file is not None else {}
    # The options are named like the policy's fields.
    changes |= {
        name: value
        for name, value in context.params.items()
        if name in _FIELDS and value is not None
    }
    if at:
        changes["calendar"] = tuple(parse_entry(one) for one in at)
    if reserve:
        changes["reservations"] = tuple(parse_reservation(one) for one in reserve)

    async def change(client: ControlClient) -> PolicyChange:
        policy = _changed(await client.get_policy(), changes)
        return await client.set_policy(policy, dry_run=dry_run)

    done = ask(context, change)
    if wants_json(context, json):
        emit_json(done)
    else:
        _print(done, dry_run=dry_run)


def parse_entry(text: str) -> CalendarEntry:
    """`mon,tue 07:00=0.7`, or without days for every day.

    Raises:
        InvalidInputError: it is not of that form.
    """
    when, _, share = text.partition("=")
    words = when.split()
    try:
        days = tuple(words[0].split(",")) if len(words) == 2 else ()
        if len(words) not in (1, 2):
            raise ValueError(when)
        return CalendarEntry(days, words[-1], float(share))
    except InvalidInputError:
        raise
    except ValueError as error:
        raise InvalidInputError(
            "at", f"{text!r} is no calendar entry", remedy='write "mon,tue 07:00=0.7"'
        ) from error


def parse_reservation(text: str) -> Reservation:
    """`tenant=32`.

    Raises:
        InvalidInputError: it is not of that form.
    """
    tenant, _, count = text.partition("=")
    try:
        return Reservation(tenant, int(count))
    except InvalidInputError:
        raise
    except ValueError as error:
        raise InvalidInputError(
            "reserve", f"{text!r} is no reservation", remedy="write TENANT=SMS"
        ) from error


def _from_file(path: Path) -> dict[str, Any]:
    try:
        body = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"policy file {path} cannot be read: {error}") from error
    unknown = sorted(set(body) - set(_FIELDS)) if isinstance(body, dict) else ["?"]
    if unknown:
        raise ConfigError(
            f"policy file {path} has what no policy has: {', '.join(map(str, unknown))}",
            remedy=f"its keys are {', '.join(_FIELDS)}",
        )
    try:
        if "calendar" in body:
            body["calendar"] = tuple(_entry(one) for one in body["calendar"] or ())
        if "reservations" in body:
            body["reservations"] = tuple(Reservation(**one) for one in body["reservations"] or ())
    except (TypeError, AttributeError) as error:
        raise ConfigError(f"policy file {path}: wrong type or key: {error}") from error
    return dict(body)


def _entry(body: dict[str, Any]) -> CalendarEntry:
    return CalendarEntry(**body | {"days": tuple(body.get("days") or ())})


def _changed(policy: Policy, changes: dict[str, Any]) -> Policy:
    try:
        return replace(policy, **changes)
    except TypeError as error:
        raise ConfigError(f"the policy has a value of the wrong type: {error}") from error


def _print(done: PolicyChange, *, dry_run: bool) -> None:
    console.print("would lead to" if dry_run else "in force; leads to")
    plan, loss = done.plan, done.loss
    shares = f"RAN {plan.ran_share:.0%}, AI {plan.ai_share:.0%}"
    console.print(f"  plan {plan.generation}: {shares}; {plan.reason}", markup=False)
    for move in done.moves:
        console.print(f"  - {move}", markup=False)
    if not done.moves:
        console.print("  no moves")
    gained = "wins" if loss.ai_sms_lost < 0 else "loses"
    console.print(
        f"  expected loss: {loss.leases_revoked} leases revoked, AI {gained}"
        f" {abs(loss.ai_sms_lost)} SMs, RAN short of {loss.ran_shortfall_sms} SMs,"
        f" engines pause up to {loss.pause_s:.2f} s"
    )


def _text(policy: Policy, name: str) -> object:
    value = getattr(policy, name)
    if name == "calendar":
        return _lines(f"{','.join(e.days)} {e.start}={e.ran_share:g}".strip() for e in value)
    if name == "reservations":
        return _lines(f"{one.tenant}={one.sm_count}" for one in value)
    return value


def _lines(entries: Any) -> str:
    listed: Sequence[str] = list(entries)
    return "\n".join(listed) or "-"
