"""Scenarios of the whole control plane as text: commands, `----`, and the trace they lead to.

`REWRITE_GOLDEN=1 pytest tests/orchestrator/test_golden_control.py` writes the traces anew, to be
reviewed as a diff. A trace has the events that a command leads to, and what is there after it.
Names that change from run to run are numbered. Commands:

    pool NUMBER [KIND]              so many GPUs, divided by MIG or so; starts the site anew
    policy KIND [field=value ...]   sets the policy
    demand SHARE                    what the cells need from now on
    look [NUMBER]                   so many looks, half a second apart, each with a report and,
                                    where a plan is due, its application
    plan                            the same, once, but nothing is applied
    wait SECONDS                    the clock moves, and nothing else happens
    alarm                           a report with late slots, and what it leads to
    lease HOLDER                    leases the largest free AI partition for a new process
    fault NUMBER WHAT [lasting]     what the driver's call with that number, from now on, does
    die NUMBER                      the process dies before that effect, counted from now on
    well                            the driver is well again
    restart                         the process ends and a new one starts
    lose|heal GPU                   a GPU falls off the bus; is reset, and empty
    by hand GPU PROFILE START       somebody destroys what is in the way, if it is not in use, and
                                    makes that
    follow NAME                     another orchestrator takes the lead on the same database
    as NAME                         whose commands follow; the first one is `first`
    apply GENERATION                applies that plan, whatever is stored since
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from airan.core.errors import AiranError
from orchestrator.control import ControlPlane
from orchestrator.drivers.simulated import XID_FELL_OFF_THE_BUS
from orchestrator.mig import MigGeometry
from orchestrator.policy import Policy
from orchestrator.store import Store
from orchestrator.store.database import take_lead
from tests.orchestrator.faulty import DEATH, GPU, Rig, at_once

SCENARIOS = sorted((Path(__file__).parent / "golden_control").glob("*.txt"))
MARK = "----\n"
UNSTABLE = re.compile(r"(GPU|MIG)-[0-9a-f-]{36}|(lease)-[0-9a-f]{12}|(process) \d+")


class Names:
    """Numbers in the order of appearance for what is named at random."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def __call__(self, text: str) -> str:
        return UNSTABLE.sub(self._numbered, text)

    def _numbered(self, match: re.Match[str]) -> str:
        kind = next(filter(None, match.groups()))
        if match.group() not in self._found:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._found[match.group()] = f"{kind}-{self._counts[kind]}"
        return self._found[match.group()]


class Scenario:
    """One site, and the orchestrators that want to lead it."""

    def __init__(self, url: str, start_process: Any) -> None:
        self.url, self._start_process = url, start_process
        self.demand, self.seen, self.names = 0.2, 0, Names()
        self.stores = {"first": Store(url)}
        self.controls: dict[str, ControlPlane] = {}
        self.acting = "first"
        self.rig = self._rig(1)

    def _rig(self, n_gpus: int, kind: str = "mig") -> Rig:
        store = self.stores["first"]
        policy = Policy(headroom=0.1, min_lease_s=2.0, notice_ms=0)
        rig = Rig(store, n_gpus=n_gpus, policy=policy, kind=kind)
        self.names, self.seen = Names(), 0
        for gpu_uuid in rig.uuids:
            self.names(gpu_uuid)
        with Store(self.url)._database.writing() as db:
            store.follow(take_lead(db, "first", 0.0))
        return rig

    async def run(self, line: str) -> list[str]:
        words = line.split()
        try:
            await getattr(self, f"do_{words[0]}")(*words[1:])
        except AiranError as error:
            return [*self._events(), f"  refused: {self.names(error.message)}"]
        return [*self._events(), self._there()]

    @property
    def control(self) -> ControlPlane:
        return self.controls.get(self.acting, self.rig.control)

    # --- commands

    async def do_pool(self, number: str, kind: str = "mig") -> None:
        await self.rig.close()
        self.rig = self._rig(int(number), kind)
        await self.rig.control.start()

    async def do_policy(self, kind: str, *words: str) -> None:
        fields: dict[str, Any] = {"notice_ms": 0, "min_lease_s": 2.0}
        for word in words:
            name, text = word.split("=")
            fields[name] = text if name == "drift" else float(text)
        await self.control.set_policy(Policy(kind, **fields), dry_run=False)

    async def do_demand(self, share: str) -> None:
        self.demand = float(share)

    async def do_look(self, times: str = "1") -> None:
        for _ in range(int(times)):
            self.rig.clock.advance(0.5)
            if await self.rig.dies(self._look()):
                return

    async def _look(self) -> None:
        await self.rig.report(self.demand, control=self.control)
        await self.control._watch_over()
        await self.control.tick()
        await self._apply()

    async def _apply(self) -> None:
        ready = self.control.applier.ready
        while ready.is_set():
            ready.clear()
            await self.control.apply_newest()

    async def do_plan(self) -> None:
        self.rig.clock.advance(0.5)
        await self.rig.report(self.demand, control=self.control)
        await self.control.tick()

    async def do_wait(self, seconds: str) -> None:
        self.rig.clock.advance(float(seconds))

    async def do_alarm(self) -> None:
        self.rig.clock.advance(0.1)
        await self.rig.report(self.demand, slots_late=3, control=self.control)
        await self._apply()

    async def do_lease(self, holder: str) -> None:
        await self.control.leases.acquire(holder, self._start_process().pid, 0, 0)

    async def do_fault(self, at: str, *what: str) -> None:
        lasting = what[-1] == "lasting"
        self.rig.effects.arm(int(at), " ".join(what[:-1] if lasting else what), lasting=lasting)

    async def do_die(self, at: str) -> None:
        self.rig.effects.arm(int(at), DEATH)

    async def do_well(self) -> None:
        self.rig.effects.disarm()

    async def do_restart(self) -> None:
        await self.rig.restart()
        await self._apply()

    async def do_lose(self, number: str) -> None:
        self.rig.node.inject_xid(self.rig.uuids[int(number) - 1], XID_FELL_OFF_THE_BUS)

    async def do_heal(self, number: str) -> None:
        self.rig.node.heal(self.rig.uuids[int(number) - 1])

    async def do_by(self, _: str, number: str, profile: str, start: str) -> None:
        gpu_uuid = self.rig.uuids[int(number) - 1]
        place = MigGeometry.load(GPU).placement(profile, int(start))
        for one in await self.rig.node.instances():
            if one.gpu_uuid == gpu_uuid and one.placement.overlaps(place):
                await self.rig.node.destroy(one.uuid)
        await self.rig.node.create(gpu_uuid, profile, int(start))

    async def do_follow(self, name: str) -> None:
        store = self.stores[name] = Store(self.url)
        with store._database.writing() as db:
            epoch = take_lead(db, name, 0.0)
        store.follow(epoch)
        self.controls[name] = self.rig.another_control(store)
        await self.controls[name].start()

    async def do_as(self, name: str) -> None:
        self.acting = name

    async def do_apply(self, generation: str) -> None:
        stored = self.stores["first"].plan(int(generation))
        assert stored is not None
        await self.control.executor.apply(stored.plan)

    # --- the trace

    def _events(self) -> list[str]:
        events = self.stores["first"].events(self.seen, 1000)
        self.seen = max([self.seen, *(event.seq for event in events)])
        return [f"  {event.kind}: {self.names(event.message)}" for event in events]

    def _there(self) -> str:
        roles = self.stores["first"].roles()
        leased = {lease.partition_id for lease, _ in self.stores["first"].leases()}
        words = []
        for gpu_uuid in self.rig.uuids:
            parts = [
                f"{roles.get(one.uuid, 'free')} {one.placement.profile}@{one.placement.start}"
                f"{' leased' if one.uuid in leased else ''}"
                for one in at_once(self.rig.node.instances())
                if one.gpu_uuid == gpu_uuid
            ]
            words.append(", ".join(parts) or "nothing")
        newest = self.stores["first"].newest_plan()
        state = f"plan {newest.plan.generation} {newest.state}" if newest else "no plan"
        return f"  = {' | '.join(words)}; {state}"

    async def close(self) -> None:
        await self.rig.close()
        for control in self.controls.values():
            await control.leases.close()
        for store in self.stores.values():
            store.close()


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
async def test_scenario_leads_to_its_trace(path: Path, tmp_path: Path, start_process: Any) -> None:
    text = path.read_text(encoding="utf-8")
    commands = text.split(MARK)[0]
    scenario = Scenario(f"sqlite:///{tmp_path / 'control.sqlite'}", start_process)
    trace = []
    for line in commands.splitlines():
        if line.strip() and not line.startswith("#"):
            trace += [line, *await scenario.run(line)]
    await scenario.close()
    got = commands + MARK + "\n".join(trace) + "\n"
    if os.environ.get("REWRITE_GOLDEN"):
        path.write_text(got, encoding="utf-8")
    assert got == path.read_text(encoding="utf-8")


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= 5
