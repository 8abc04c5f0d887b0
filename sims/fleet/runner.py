"""Simulates every site under every policy asked for, in parallel, and goes on where it was."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airan.core.errors import ConfigError, NotFoundError
from sims.fleet import account, engines, federation, traffic
from sims.fleet.account import Account
from sims.fleet.scenario import Scenario
from sims.fleet.site import SiteTask, simulate_site

_FORMAT = 3

Mapper = Callable[[Sequence[SiteTask]], Iterator[tuple[int, Account]]]
"""Simulates tasks somewhere; yields (number of the task, account) as they end."""


def in_processes(workers: int) -> Mapper:
    """A pool of so many processes on this machine; one works in this process."""

    def mapped(tasks: Sequence[SiteTask]) -> Iterator[tuple[int, Account]]:
        if workers <= 1 or len(tasks) <= 1:
            yield from ((number, simulate_site(task)) for number, task in enumerate(tasks))
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context) as pool:
            running = {pool.submit(simulate_site, task): n for n, task in enumerate(tasks)}
            try:
                for done in as_completed(running):
                    yield running[done], done.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    return mapped


@dataclass
class Progress:
    """Sites that have been simulated, by policy and number; kept in a file where one is named."""

    scenario: Scenario
    path: Path | None = None
    done: dict[tuple[str, int], Account] = field(default_factory=dict)

    def load(self) -> None:
        """Reads what an interrupted run has left, if the file is there.

        Raises:
            ConfigError: it is not such a file, or one of another scenario.
        """
        if self.path is None:
            return
        try:
            lines = self.path.read_text().split("\n") if self.path.exists() else [""]
            # The last line was cut off, or is empty.
            bodies = [json.loads(line) for line in lines[:-1]]
            head = bodies[0] if bodies else None
            if head is not None and head["digest"] != self.scenario.digest():
                raise ConfigError(
                    f"{self.path} is of another scenario, or of one that has changed since",
                    remedy="name another file, or remove it to begin anew",
                )
            for body in bodies[1:]:
                self.done[body["policy"], body["site"]] = account.restored(body["account"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{self.path} holds no interrupted simulation: {error}",
                remedy="name another file, or remove it to begin anew",
            ) from error
        self._begin(lines[:-1])

    def add(self, policy: str, site: int, counted: Account) -> None:
        """Keeps what a site came to."""
        self.done[policy, site] = counted
        self._append({"policy": policy, "site": site, "account": counted.body()})

    def _begin(self, lines: Sequence[str]) -> None:
        if self.path is None:
            return
        if lines:
            self.path.write_text("".join(f"{line}\n" for line in lines))
        else:
            self.path.unlink(missing_ok=True)
            self._append({"airan_simulation": _FORMAT, "digest": self.scenario.digest()})

    def _append(self, body: dict[str, Any]) -> None:
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(body) + "\n")


def run(
    scenario: Scenario,
    policies: Sequence[str],
    mapper: Mapper,
    *,
    resume: Path | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """The report, the same to the bit for the same scenario, wherever and however often
    interrupted it was made. `tell` hears how many sites of how many are done.

    Raises:
        NotFoundError: the scenario has no such policy, or there is no such engine table.
        ConfigError: `resume` is no file of this scenario.
        InvalidInputError: the scenario does not fit into memory.
    """
    _check_policies(scenario, policies)
    progress = Progress(scenario, resume)
    progress.load()
    wanted = [(name, site) for name in policies for site in range(scenario.n_sites)]
    missing = [one for one in wanted if one not in progress.done]
    tell = tell or (lambda _done, _of: None)
    tell(len(wanted) - len(missing), len(wanted))
    if missing:
        shares = traffic.ran_demand(scenario)
        tasks = [SiteTask(scenario, name, site, shares[site]) for name, site in missing]
        for number, counted in mapper(tasks):
            progress.add(*missing[number], counted)
            left = sum(one not in progress.done for one in wanted)
            tell(len(wanted) - left, len(wanted))
    return report(scenario, policies, progress)


def run_many(
    scenarios: Sequence[Scenario],
    policies: Sequence[str],
    mapper: Mapper,
    *,
    tell: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """A report of each scenario, in their order; the sites of all are simulated side by side.

    Raises:
        NotFoundError: a scenario has no such policy, or there is no such engine table.
        InvalidInputError: a scenario does not fit into memory.
    """
    tasks: list[SiteTask] = []
    keepers = [Progress(scenario) for scenario in scenarios]
    whose: list[Progress] = []
    for keeper in keepers:
        _check_policies(keeper.scenario, policies)
        shares = traffic.ran_demand(keeper.scenario)
        for name in policies:
            for site, share in enumerate(shares):
                tasks.append(SiteTask(keeper.scenario, name, site, share))
                whose.append(keeper)
    for done, (number, counted) in enumerate(mapper(tasks), start=1):
        whose[number].add(tasks[number].policy, tasks[number].site, counted)
        if tell is not None:
            tell(done, len(tasks))
    return [report(keeper.scenario, policies, keeper) for keeper in keepers]


def _check_policies(scenario: Scenario, policies: Sequence[str]) -> None:
    for name in policies:
        if name not in scenario.policies:
            raise NotFoundError(
                f"scenario {scenario.name} has no policy {name!r}",
                remedy=f"it has: {', '.join(scenario.policies)}",
            )
    engines.of(scenario)


def report(scenario: Scenario, policies: Sequence[str], progress: Progress) -> dict[str, Any]:
    """What came of it, as JSON. `utilisation` is the first policy's, which `airan economics`
    takes."""
    found = []
    for name in policies:
        sites = [progress.done[name, site] for site in range(scenario.n_sites)]
        found.append(account.summary(name, scenario, federation.settled(scenario, sites)))
    _compare_with_oracle(found)
    table = engines.of(scenario)
    return {
        "scenario": scenario.name,
        "description": scenario.description,
        "simulated": True,
        "seed": scenario.seed,
        "days": scenario.days,
        "cells": scenario.cells,
        "sites": scenario.n_sites,
        "gpus": scenario.n_sites * scenario.gpus_per_site,
        "gpu": scenario.gpu,
        "partition": scenario.partition,
        "step_s": scenario.step_s,
        "engine": {"model": table.model, "hardware": table.hardware, "source": table.source},
        "utilisation": found[0]["utilisation"],
        "policies": found,
    }


def _compare_with_oracle(found: list[dict[str, Any]]) -> None:
    """Where an oracle was simulated too, how far each policy is from it."""
    known = [one for one in found if one["kind"] == "oracle"]
    if not known:
        return
    best = max(one["utilisation"]["total"] for one in known)
    for one in found:
        one["below_oracle"] = best - one["utilisation"]["total"]


def tiers_csv(report: dict[str, Any]) -> str:
    """What each tier got under each policy, a row each; times in seconds."""
    rows: list[dict[str, Any]] = [
        {"scenario": report["scenario"], "seed": report["seed"], "policy": one["policy"]}
        | {"tier": tier}
        | counts
        for one in report["policies"]
        for tier, counts in one["ai"]["tiers"].items()
    ]
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()
