"""A replay's rows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from airan.bench.replay.bills import Account
from airan.bench.replay.client import Seen
from airan.bench.replay.figures import fairness, in_time, of_tier, quantile
from airan.bench.replay.revoker import Revocations
from airan.bench.rows import Row, row
from airan.core.errors import ConfigError
from marketplace.dispatch.admission import TtftTargets
from marketplace.dispatch.queue import TIERS, Tier

TARGETS = TtftTargets()
"""Those of a site whose configuration does not say otherwise."""


@dataclass(frozen=True)
class Result:
    """What came of a replay."""

    seen: Sequence[Seen]
    account: Account
    revocations: Revocations
    wall_s: float
    """From the begin until the last stream ended."""
    load_before: float
    """The machine's load average when it began."""

    @property
    def failed(self) -> list[Seen]:
        """Neither complete nor refused."""
        return [one for one in self.seen if not one.complete and not one.refused]

    @property
    def ok(self) -> bool:
        """Nothing was lost, billed wrongly or left undone, and the books agree."""
        account = self.account
        clean = not account.tokens_lost and not account.n_billed_wrong and not account.problems
        return clean and not self.failed

    @property
    def problems(self) -> list[str]:
        """All that is not as it should be, in words."""
        failed = [f"request {one.planned.number} failed: {one.problem}" for one in self.failed]
        return [*self.account.problems, *failed]


def rows(result: Result, where: str) -> list[Row]:
    """All rows; `where`: the hardware, and what was replayed how."""
    found = [*_requests(result), *_tokens(result), *_in_time(result)]
    for tier in TIERS:
        found += _tier(of_tier(result.seen, tier), tier)
    found += [*_fairness(result), *_money(result), *_revocations(result)]
    return [row(name, value, unit, where) for name, value, unit in found]


def write(result: Result, path: Path) -> None:
    """Writes every request as its client saw it, a line of JSON each.

    Raises:
        ConfigError: the file cannot be written.
    """
    lines = (json.dumps(dataclasses.asdict(one)) + "\n" for one in result.seen)
    try:
        path.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"the report {path} cannot be written: {error.strerror}",
            remedy="name a file in a folder that you may write to",
        ) from error


_Figure = tuple[str, float | None, str]


def _requests(result: Result) -> Iterator[_Figure]:
    seen = result.seen
    yield "requests", len(seen), "requests"
    yield "completed", sum(one.complete for one in seen), "requests"
    yield "refused", sum(one.refused for one in seen), "requests"
    yield "failed", len(result.failed), "requests"
    yield "wall_time", result.wall_s, "s"
    yield "load_average_before", result.load_before, "processes"


def _tokens(result: Result) -> Iterator[_Figure]:
    whole = [one for one in result.seen if one.complete]
    n_made = sum(one.usage_answer for one in whole)
    yield "prompts_clipped", sum(one.planned.clipped for one in result.seen), "requests"
    yield "prompt_tokens", sum(one.usage_prompt for one in whole), "tokens"
    yield "answer_tokens_asked", sum(one.planned.n_answer for one in whole), "tokens"
    yield "answer_tokens_generated", n_made, "tokens"
    yield "answer_tokens_per_second", n_made / result.wall_s, "tokens/s"
    yield "tokens_lost", result.account.tokens_lost, "tokens"


def _in_time(result: Result) -> Iterator[_Figure]:
    n_good = sum(in_time(one, TARGETS) for one in result.seen)
    n_accepted = sum(one.accepted for one in result.seen)
    yield "goodput", n_good / result.wall_s, "requests/s"
    yield "goodput_share_of_sent", n_good / len(result.seen), "share"
    yield "goodput_share_of_accepted", n_good / n_accepted if n_accepted else None, "share"


def _tier(seen: Sequence[Seen], tier: Tier) -> Iterator[_Figure]:
    if not seen:
        return
    times = [one.ttft_s for one in seen if one.ttft_s is not None]
    yield f"{tier}_requests", len(seen), "requests"
    yield f"{tier}_refused", sum(one.refused for one in seen), "requests"
    yield f"{tier}_ttft_target", TARGETS.of(tier), "s"
    yield f"{tier}_in_time", sum(in_time(one, TARGETS) for one in seen), "requests"
    yield f"{tier}_ttft_p50", quantile(times, 0.5), "s"
    yield f"{tier}_ttft_p99", quantile(times, 0.99), "s"
    yield f"{tier}_longest_pause", max(one.longest_pause_s for one in seen), "s"


def _fairness(result: Result) -> Iterator[_Figure]:
    found = fairness(result.seen, "default")
    yield "fairness", found.index, "Jain's index"
    yield "fairness_of_demand", found.index_of_demand, "Jain's index"
    yield "backlogged", found.backlogged_s, "s"
    for name, n_tokens in found.tokens.items():
        yield f"backlogged_tokens_{name}", n_tokens, "tokens"


def _money(result: Result) -> Iterator[_Figure]:
    account = result.account
    yield "revenue", account.revenue_micro_usd, "micro-USD"
    yield "metered_usage_at_prices", account.metered_micro_usd, "micro-USD"
    yield "billed_wrong", account.n_billed_wrong, "bills"


def _revocations(result: Result) -> Iterator[_Figure]:
    found = result.revocations
    yield "revocations", found.n, "leases"
    yield "evictions", found.n_evicted, "leases"
    yield "lease_released_after_max", max(found.release_s, default=None), "s"
    yield "lease_away_max", max(found.away_s, default=None), "s"
    yield "streams_resumed", sum(one.preemptions > 0 for one in result.seen), "requests"
    longest = max((one.longest_pause_s for one in result.seen), default=0.0)
    yield "longest_pause", longest, "s"
