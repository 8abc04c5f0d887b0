"""Whether every accepted job was done once and billed once, and no token was lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airan.bench.replay.admin import Admin
from airan.bench.replay.bills import compare
from airan.bench.replay.client import Seen
from airan.bench.site.load import BACKGROUND, BackgroundEnd


@dataclass(frozen=True)
class SiteAccount:
    """Clients' counts beside the marketplace's books.

    Attributes:
        accepted, completed, refused: streams, responses and lines of batches; of streams only are
            refusals counted here.
        billed_once: completed ones with one charge of what they cost; of background work one
            charge, and as many tokens as it says in all.
        streams_broken: accepted and not read to their end.
        tokens_lost: billed and not seen, or not billed, or of streams that broke off.
        problems: all that is not as it should be, in words.
    """

    accepted: int
    completed: int
    refused: int
    billed_once: int
    streams_broken: int
    tokens_lost: int
    problems: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Nothing is wrong."""
        done = self.accepted == self.completed == self.billed_once
        return done and not (self.streams_broken or self.tokens_lost or self.problems)


async def settle(admin: Admin, seen: Sequence[Seen], background: BackgroundEnd) -> SiteAccount:
    """Reads the books, when all has ended."""
    lost = int((await admin.get("/stats"))["tokens"]["lost"])
    checked = await admin.get("/books/check")
    usage = {str(row["tenant"]): row for row in (await admin.get("/usage"))["data"]}
    account = balance(seen, background, await admin.charges(), usage.get(BACKGROUND.name, {}))
    problems = (*account.problems, *(f"books: {one}" for one in checked["problems"]))
    return SiteAccount(
        account.accepted,
        account.completed,
        account.refused,
        account.billed_once,
        account.streams_broken,
        max(account.tokens_lost, lost),
        problems,
    )


def balance(
    seen: Sequence[Seen],
    background: BackgroundEnd,
    transactions: Sequence[Mapping[str, Any]],
    background_usage: Mapping[str, Any],
) -> SiteAccount:
    """`transactions`: all of the books; `background_usage`: what was metered of the background."""
    charges = [one for one in transactions if str(one["id"]).startswith("job:")]
    jobs = {one.job for one in seen if one.job}
    of_streams = [one for one in charges if _job(one) in jobs]
    n_others = len(charges) - len(of_streams)
    streams = compare(seen, of_streams)
    accepted = [one for one in seen if one.accepted]
    completed = sum(one.complete for one in accepted)
    problems = [*streams.problems, *background.problems]
    problems += [
        f"request {one.planned.number} failed: {one.problem}"
        for one in seen
        if not one.accepted and not one.refused
    ]
    found = (
        n_others,
        int(background_usage.get("requests", 0)),
        int(background_usage.get("output_tokens", 0)),
    )
    wanted = (background.completed, background.completed, background.output_tokens)
    if found != wanted:
        problems.append(
            f"background work: {found} charges, metered requests and tokens, not {wanted}"
        )
    n_background_billed = min(n_others, background.completed)
    return SiteAccount(
        len(accepted) + background.accepted,
        completed + background.completed,
        sum(one.refused for one in seen),
        completed - streams.n_billed_wrong + n_background_billed,
        len(accepted) - completed,
        streams.tokens_lost,
        tuple(problems),
    )


def _job(transaction: Mapping[str, Any]) -> str:
    return str(transaction["id"]).removeprefix("job:").replace("-", "")
