"""What comes to a site in a step: who is let in, who comes again, who is refused for good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from marketplace.dispatch.admission import Work
from marketplace.dispatch.queue import Tier
from marketplace.money import Price
from sims.fleet.admission import Asked
from sims.fleet.cohort import Cohort, Group, Predicted, Refused, TierCount, shared
from sims.fleet.desk import Desk
from sims.fleet.pricing import price_at
from sims.fleet.traffic import Stream

_FULL_RETRY_S = 5.0
"""What the live gateway tells those who have too many waiting."""
_LONGEST_RETRY_S = 60.0
_BACKOFF_S = 1.0
"""OpenAI's client keeps to a Retry-After of a minute at most, and else comes again after about a
second."""


class Door:
    """One site's."""

    def __init__(self, streams: Sequence[Stream], step_s: float, desk: Desk) -> None:
        self._streams, self._step_s, self._desk = streams, step_s, desk
        self._returning: dict[int, list[tuple[Tier, Group]]] = {}
        self.tiers: dict[str, TierCount] = {}
        self.refused: list[Refused] = []
        """Those that may be done elsewhere."""
        for stream in streams:
            self.tiers.setdefault(stream.tier, TierCount())

    def let_in(
        self, tier: Tier, step: int, before: Work, now_s: float, level_permille: int
    ) -> list[Cohort]:
        """As many as the live check lets in, of each tenant the same part."""
        groups = self._asking(tier, step)
        n = sum(one.n for one in groups)
        if not n:
            return []
        let, predicted = n, None
        told_s: float | None = None
        if self._desk.admission is not None:
            asked = Asked(
                tier,
                n,
                sum(one.context_tokens for one in groups),
                sum(one.generated_tokens for one in groups),
            )
            found = self._desk.admission.let(asked, before, now_s)
            let, told_s, predicted = found.n, found.retry_after_s, found.predicted
        price = price_at(self._desk.book, tier, level_permille)
        kept: list[Group] = []
        for group, mine in zip(groups, shared(let, [one.n for one in groups]), strict=True):
            inside = group.part(mine) if mine < group.n else group
            kept.append(inside)
            if mine < group.n:
                self._refuse(tier, group.less(inside), step, told_s, price)
        return self._cohorts(tier, kept, now_s, price, predicted)

    def _asking(self, tier: Tier, step: int) -> list[Group]:
        count, groups = self.tiers.get(tier), list[Group]()
        if count is None:
            return groups
        for one in self._streams:
            if one.tier == tier and one.requests[step]:
                n, retries = int(one.requests[step]), self._desk.retries
                tokens = int(one.context_tokens[step]), int(one.generated_tokens[step])
                groups.append(Group(one.tenant, n, *tokens, retries))
                count.arrived += n
        again = self._returning.get(step, [])
        for group in (group for its, group in again if its == tier):
            groups.append(group)
            count.retried += group.n
        self._returning[step] = [two for two in again if two[0] != tier]
        if not self._returning[step]:
            del self._returning[step]
        return groups

    def _cohorts(
        self,
        tier: Tier,
        kept: Sequence[Group],
        now_s: float,
        price: Price,
        predicted: Predicted | None,
    ) -> list[Cohort]:
        found: dict[str, Cohort] = {}
        for one in kept:
            if not one.n:
                continue
            cohort = found.get(one.tenant)
            if cohort is None:
                tries = [0] * (self._desk.retries + 1)
                cohort = Cohort(tier, one.tenant, 0, 0, 0, now_s, price, tries, predicted)
                found[one.tenant] = cohort
            cohort.n += one.n
            cohort.context_tokens += one.context_tokens
            cohort.generated_tokens += one.generated_tokens
            cohort.tries[one.tries_left] += one.n
        return list(found.values())

    def turn_away(self, cohort: Cohort, n: int, step: int) -> None:
        """The last `n` found too many of their tenant's waiting, in the step before this."""
        if self._desk.admission is not None and cohort.predicted is not None:
            self._desk.admission.turned_away(cohort.tier, cohort.predicted, n)
        for group in cohort.turn_away(n):
            if group.tries_left:
                self._come_again(cohort.tier, group, step)
            else:
                self.tiers[cohort.tier].refused_full += group.n

    def _refuse(
        self, tier: Tier, group: Group, step: int, told_s: float | None, price: Price
    ) -> None:
        if group.tries_left and told_s is not None:
            pause_s = told_s if told_s <= _LONGEST_RETRY_S else _BACKOFF_S
            self._come_again(tier, group, step + max(1, round(pause_s / self._step_s)))
            return
        count = self.tiers[tier]
        count.refused_late += group.n
        count.retry_after_s += group.n * (told_s or 0.0)
        if tier in self._desk.leaving:
            tokens = group.context_tokens, group.generated_tokens
            micro_usd = price.amount_micro_usd(*tokens)
            self.refused.append(Refused(step, tier, group.n, *tokens, micro_usd))

    def _come_again(self, tier: Tier, group: Group, step: int) -> None:
        again = replace(group, tries_left=group.tries_left - 1)
        self._returning.setdefault(step, []).append((tier, again))
