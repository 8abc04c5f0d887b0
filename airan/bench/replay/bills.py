"""Whether anything was lost or billed wrongly: the streams against the books."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airan.bench.replay.admin import Admin
from airan.bench.replay.client import Seen
from airan.bench.replay.tenants import PRICES

_REVENUE = "site:revenue"


@dataclass(frozen=True)
class Account:
    """The books beside what the clients saw."""

    tokens_lost: int
    """Billed and not seen, or seen and not billed, or of accepted answers that did not end; the
    marketplace's own count of lost tokens, if that is more."""
    n_billed_wrong: int
    """Answers billed twice, not at all, or not what their tokens cost, and bills without one."""
    revenue_micro_usd: int
    """By the books."""
    metered_micro_usd: int
    """What the tokens that the streams reported cost."""
    problems: tuple[str, ...]
    """All of it in words."""


async def settle_accounts(admin: Admin, all_seen: Sequence[Seen]) -> Account:
    """Reads the books once all streams have ended. `all_seen`: every request ever sent."""
    lost = int((await admin.get("/stats"))["tokens"]["lost"])
    checked = await admin.get("/books/check")
    found = compare(all_seen, await admin.charges())
    usage = await admin.get("/usage")
    problems = [*found.problems, *map(str, checked["problems"])]
    problems += usage_problems(all_seen, usage["data"])
    if usage["total_micro_usd"] != found.revenue_micro_usd:
        problems.append(
            f"usage sums to {usage['total_micro_usd']} micro-USD, the books' revenue to "
            f"{found.revenue_micro_usd}"
        )
    return Account(
        max(found.tokens_lost, lost),
        found.n_billed_wrong,
        found.revenue_micro_usd,
        found.metered_micro_usd,
        tuple(problems),
    )


def compare(all_seen: Iterable[Seen], transactions: Iterable[Mapping[str, Any]]) -> Account:
    """Each stream against its charge. What a tenant does not get is not to be billed.

    An accepted request that did not end complete counts its `max_tokens` as lost.
    """
    charged: Counter[str] = Counter()
    n_charges: Counter[str] = Counter()
    for transaction in transactions:
        job = str(transaction["id"]).removeprefix("job:").replace("-", "")
        n_charges[job] += 1
        for entry in transaction["entries"]:
            if entry["account"] == _REVENUE:
                charged[job] -= int(entry["amount_micro_usd"])
    problems: list[str] = []
    lost = wrong = metered = 0
    for seen in all_seen:
        if seen.accepted and not seen.complete:
            lost += seen.planned.n_answer
            problems.append(f"request {seen.planned.number} did not end: {seen.problem}")
        if not seen.complete:
            continue
        if seen.n_missing:
            lost += seen.n_missing
            got = f"request {seen.planned.number}: {seen.n_tokens} tokens came"
            problems.append(f"{got}, {seen.usage_answer} were billed")
        due = cost_micro_usd(seen)
        metered += due
        n, amount = n_charges.pop(seen.job, 0), charged.get(seen.job, 0)
        # What costs nothing is not booked.
        if amount != due or n != (1 if due else 0):
            wrong += 1
            problems.append(f"job {seen.job}: costs {due} micro-USD, charged {amount} in {n} times")
    for job in n_charges:
        wrong += 1
        problems.append(f"job {job}: charged {charged[job]} micro-USD, and no stream ended with it")
    return Account(lost, wrong, sum(charged.values()), metered, tuple(problems))


def cost_micro_usd(seen: Seen) -> int:
    """What a stream's own usage costs at its tier's price."""
    price = PRICES[seen.planned.tenant.tier]
    return price.amount_micro_usd(seen.usage_prompt, seen.usage_answer)


def usage_problems(all_seen: Sequence[Seen], rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Where the tenants' metered usage is not the sum of their streams'."""
    wanted: dict[str, tuple[int, int, int]] = {}
    for seen in all_seen:
        if seen.complete:
            n, n_in, n_out = wanted.get(seen.planned.tenant.name, (0, 0, 0))
            added = (n + 1, n_in + seen.usage_prompt, n_out + seen.usage_answer)
            wanted[seen.planned.tenant.name] = added
    metered = {
        str(row["tenant"]): (row["requests"], row["input_tokens"], row["output_tokens"])
        for row in rows
    }
    return [
        f"tenant {name}: streams say {wanted.get(name)}, usage says {metered.get(name)} "
        "(requests, prompt tokens, answer tokens)"
        for name in sorted(wanted.keys() | metered.keys())
        if wanted.get(name) != metered.get(name)
    ]
