"""The radio takes the GPU and gives it back, again and again."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace

from airan.bench.replay.engine import HOLDER
from airan.core.errors import UnavailableError
from orchestrator.api.client import ControlClient
from orchestrator.policy import Policy

_POLL_S = 0.02
_PATIENCE_S = 30.0


@dataclass
class Revocations:
    """What came of them."""

    n: int = 0
    n_evicted: int = 0
    """Leases that were not given back within their notice, and were taken."""
    release_s: list[float] = field(default_factory=list)
    """From the policy's change until nobody held a lease."""
    away_s: list[float] = field(default_factory=list)
    """From the policy's change until the engine had a lease again."""


async def revoke_regularly(
    control: ControlClient, policy: Policy, every_s: float, held_s: float, found: Revocations
) -> None:
    """Every `every_s` seconds gives the radio all of the GPU for `held_s`; until cancelled.

    Raises:
        UnavailableError: a lease does not end, or none is granted again, within 30 s.
    """
    next_s = time.monotonic() + every_s
    while True:
        await asyncio.sleep(next_s - time.monotonic())
        # A whole period later, even if this one takes longer.
        next_s = max(next_s + every_s, time.monotonic())
        await revoke_once(control, policy, held_s, found)


async def revoke_once(
    control: ControlClient,
    policy: Policy,
    held_s: float,
    found: Revocations,
    holder: str = HOLDER,
) -> None:
    """Gives the radio all of the GPU for `held_s`, and the holder its lease back by `policy`.

    Raises:
        UnavailableError: its lease does not end, or none is granted again, within 30 s.
    """
    held = await _held(control, holder)
    begun_s = time.monotonic()
    await control.set_policy(replace(policy, kind="static", ran_share=1.0))
    await _until(control, holder, False)
    found.release_s.append(time.monotonic() - begun_s)
    await asyncio.sleep(held_s)
    await control.set_policy(policy)
    await _until(control, holder, True)
    found.away_s.append(time.monotonic() - begun_s)
    ended = [one for one in await control.leases(include_ended=True) if one.id in held]
    found.n += sum(bool(one.revoked_s) for one in ended)
    found.n_evicted += sum(one.end_reason == "evicted" for one in ended)


async def _held(control: ControlClient, holder: str) -> set[str]:
    return {one.id for one in await control.leases() if one.holder == holder}


async def _until(control: ControlClient, holder: str, wanted: bool) -> None:
    until_s = time.monotonic() + _PATIENCE_S
    while bool(await _held(control, holder)) is not wanted:
        if time.monotonic() > until_s:
            what = "is not granted again" if wanted else "does not end"
            raise UnavailableError(f"the engine's lease {what} within {_PATIENCE_S:g} s")
        await asyncio.sleep(_POLL_S)
