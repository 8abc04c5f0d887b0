"""Planner scenarios as text: commands, `----`, and the trace they must lead to.

`REWRITE_GOLDEN=1 pytest tests/orchestrator/test_golden.py` writes the traces anew, to be
reviewed as a diff. Commands:

    policy KIND [field=value ...]   sets the policy
    cells on|off                    whether cells run on the RAN's partitions
    demand NOW [FORECAST [SUSTAINED]] [assumed]
                                    plans, and carries the plan out step by step
    lease                           leases the largest free AI partition
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.mig import MigGeometry
from orchestrator.plan import Demand, Gpu, Inventory, Partition, Plan, plan
from orchestrator.policy import Policy
from orchestrator.steps import Step, steps

SCENARIOS = sorted((Path(__file__).parent / "golden").glob("*.txt"))
MARK = "----\n"


class Site:
    """A site on paper."""

    def __init__(self) -> None:
        self.inventory = Inventory((Gpu("GPU-1", MigGeometry.load("GH200-96GB")),))
        self.policy = Policy()
        self.parent: Plan | None = None
        self.made = 0

    def run(self, line: str) -> list[str]:
        command, *words = line.split()
        if command == "policy":
            fields = dict(word.split("=") for word in words[1:])
            self.policy = Policy(words[0], **{key: float(text) for key, text in fields.items()})
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
        demand = Demand(now, soon, sustained, assumed="assumed" in words)
        chosen = plan(self.policy, self.inventory, demand, self.parent)
        if chosen is self.parent:
            return ["  no change"]
        trace = [f"  plan {chosen.generation}: {chosen.reason}"]
        while todo := steps(chosen, self.inventory):
            trace.append(f"    {todo[0]}")
            self.take(todo[0])
        self.parent = chosen
        return trace

    def take(self, step: Step) -> None:
        parts = {part.id: part for part in self.inventory.partitions}
        if step.kind == "create":
            self.made += 1
            profile = self.inventory.gpus[0].geometry.profile(step.placement.profile)
            name = f"MIG-{self.made}"
            parts[name] = Partition(
                name, "GPU-1", step.placement, profile.sm_count, profile.memory_mib, step.role
            )
        elif step.kind == "destroy":
            del parts[step.partition_id]
        elif step.kind == "revoke":
            parts[step.partition_id] = replace(parts[step.partition_id], leased=False)
        else:
            parts[step.partition_id] = replace(parts[step.partition_id], role=step.role)
        self.inventory = replace(self.inventory, partitions=tuple(parts.values()))


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
