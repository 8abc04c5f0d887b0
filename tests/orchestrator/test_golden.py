"""Planner scenarios as text: commands, `----`, and the trace they must lead to.

`REWRITE_GOLDEN=1 pytest tests/orchestrator/test_golden.py` writes the traces anew, to be
reviewed as a diff. Commands:

    pool GPU ...                    the GPUs: products of the MIG table, or KIND:SMS:STEP
    policy KIND [field=value ...]   sets the policy; `at=mon,tue/07:00/0.7` adds to the calendar
    time DAY HH:MM                  the time in the policy's zone, for time_of_day
    drain|undrain NUMBER            takes a GPU into maintenance, or back
    need NUMBER NOW [SOON]          SMs that the cells placed on a GPU need, from now on
    cells on|off                    whether cells run on the RAN's partitions
    demand NOW [FORECAST [SUSTAINED]] [assumed]
                                    plans, and carries the plan out step by step
    lease                           leases the largest free AI partition
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from orchestrator.geometry import Geometry
from orchestrator.mig import MigGeometry
from orchestrator.plan import Demand, Gpu, GpuDemand, Inventory, Partition, Plan, plan
from orchestrator.policy import WEEKDAYS, CalendarEntry, Policy, zone
from orchestrator.shares import ShareGeometry
from orchestrator.steps import Step, in_words, steps

SCENARIOS = sorted((Path(__file__).parent / "golden").glob("*.txt"))
MARK = "----\n"


class Site:
    """A site on paper."""

    def __init__(self) -> None:
        self.inventory = Inventory((Gpu("GPU-1", MigGeometry.load("GH200-96GB")),))
        self.now_s = 0.0
        self.needs: dict[str, GpuDemand] = {}
        self.policy = Policy()
        self.parent: Plan | None = None
        self.made = 0

    def run(self, line: str) -> list[str]:
        command, *words = line.split()
        if command == "pool":
            gpus = (Gpu(f"GPU-{n}", geometry(word)) for n, word in enumerate(words, start=1))
            self.inventory = Inventory(tuple(gpus))
            return []
        if command == "policy":
            self.policy = policy(words)
            return []
        if command == "time":
            self.now_s = moment_s(words, self.policy)
            return []
        if command in ("drain", "undrain"):
            self.drain(f"GPU-{words[0]}", drained=command == "drain")
            return []
        if command == "need":
            now, soon = int(words[1]), int(words[-1])
            self.needs[f"GPU-{words[0]}"] = GpuDemand(f"GPU-{words[0]}", now, soon, soon)
            return []
        if command == "cells":
            self.inventory = replace(self.inventory, ran_in_use=words == ["on"])
            return []
        if command == "lease":
            return self.lease()
        assert command == "demand", line
        return self.plan(words)

    def lease(self) -> list[str]:
        parts = list(self.inventory.partitions)
        free = [part for part in parts if part.role == "ai" and not part.leased]
        best = max(free, key=lambda part: part.sm_count)
        parts[parts.index(best)] = replace(best, leased=True)
        self.inventory = replace(self.inventory, partitions=tuple(parts))
        return [f"  leased {best.placement.profile} at slice {best.placement.start}"]

    def plan(self, words: list[str]) -> list[str]:
        values = [float(word) for word in words if word != "assumed"]
        now, soon, sustained = (values + values[-1:] * 2)[:3]
        scheduled = None
        if self.policy.kind == "time_of_day":
            scheduled = self.policy.ran_share_at(self.now_s)
        demand = Demand(
            now,
            soon,
            sustained,
            assumed="assumed" in words,
            by_gpu=tuple(self.needs.values()),
            scheduled_share=scheduled,
        )
        chosen = plan(self.policy, self.inventory, demand, self.parent)
        if chosen is self.parent:
            return ["  no change"]
        trace = [f"  plan {chosen.generation}: {chosen.reason}"]
        while todo := steps(chosen, self.inventory):
            trace.append(f"    {in_words(todo[:1], self.inventory)[0]}")
            self.take(todo[0])
        self.parent = chosen
        return trace

    def take(self, step: Step) -> None:
        parts = {part.id: part for part in self.inventory.partitions}
        if step.kind == "create":
            self.made += 1
            name = f"PART-{self.made}"
            profile = self.geometry_of(step).profile(step.placement.profile)
            parts[name] = Partition(
                name, step.gpu_uuid, step.placement, profile.sm_count, profile.memory_mib, step.role
            )
        elif step.kind == "resize":
            assert step.becomes is not None
            sms = self.geometry_of(step).profile(step.becomes.profile).sm_count
            old = parts[step.partition_id]
            parts[step.partition_id] = replace(old, placement=step.becomes, sm_count=sms)
        elif step.kind == "destroy":
            del parts[step.partition_id]
        elif step.kind == "revoke":
            parts[step.partition_id] = replace(parts[step.partition_id], leased=False)
        else:
            parts[step.partition_id] = replace(parts[step.partition_id], role=step.role)
        self.inventory = replace(self.inventory, partitions=tuple(parts.values()))
        for gpu in self.inventory.gpus:
            gpu.geometry.check(part.placement for part in self.inventory.on(gpu))

    def geometry_of(self, step: Step) -> Geometry:
        return next(gpu.geometry for gpu in self.inventory.gpus if gpu.uuid == step.gpu_uuid)

    def drain(self, uuid: str, *, drained: bool) -> None:
        gpus = (
            replace(gpu, drained=drained) if gpu.uuid == uuid else gpu
            for gpu in self.inventory.gpus
        )
        self.inventory = replace(self.inventory, gpus=tuple(gpus))


def geometry(word: str) -> Geometry:
    kind, *numbers = word.split(":")
    if not numbers:
        return MigGeometry.load(word)
    sms, step = map(int, numbers)
    return ShareGeometry("H100-SXM5-80GB", kind, sms, 81152, step)


def policy(words: list[str]) -> Policy:
    fields: dict[str, Any] = {}
    calendar = []
    for word in words[1:]:
        name, text = word.split("=")
        if name == "at":
            days, start, share = text.split("/")
            calendar.append(
                CalendarEntry(tuple(filter(None, days.split(","))), start, float(share))
            )
        else:
            fields[name] = text if name in ("unit", "time_zone") else float(text)
    return Policy(words[0], calendar=tuple(calendar), **fields)


def moment_s(words: list[str], policy: Policy) -> float:
    """A moment in the week of Monday 2026-06-01."""
    day = datetime(2026, 6, 1 + WEEKDAYS.index(words[0]), tzinfo=zone(policy.time_zone))
    hour, minute = map(int, words[1].split(":"))
    return day.replace(hour=hour, minute=minute).timestamp()


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario_leads_to_its_trace(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    commands = text.split(MARK)[0]
    site = Site()
    trace = []
    for line in commands.splitlines():
        if line.strip() and not line.startswith("#"):
            trace += [line, *site.run(line)]
    got = commands + MARK + "\n".join(trace) + "\n"
    if os.environ.get("REWRITE_GOLDEN"):
        path.write_text(got, encoding="utf-8")
    assert got == path.read_text(encoding="utf-8")


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= 4
