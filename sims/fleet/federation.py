"""Requests that a site refuses go to peers: by the live data policies and order of peers.

Sites are simulated one by one; what each refused and what its engines had to spare, step by step,
is brought together here. That is exact as far as the flow goes: peers' requests are let in only
while nothing of the host's own waits, and what a site refused it does not do, wherever it goes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

from marketplace.federation.choice import Way, ways_out
from marketplace.federation.policy import DataPolicy
from marketplace.money import Price
from sims.fleet import engines
from sims.fleet.account import Account
from sims.fleet.cohort import Refused
from sims.fleet.histogram import Histogram
from sims.fleet.market import Cloud, FederationSpec
from sims.fleet.pricing import live_price
from sims.fleet.scenario import Scenario


@dataclass
class _Spare:
    """A site's engines in one step, as far as they have nothing to do."""

    idle_s: float
    decode_rate: float
    prefill_rate: float
    leased: float
    """SMs."""
    given_s: float = 0.0

    @classmethod
    def of(cls, spare: Sequence[float]) -> _Spare | None:
        """None: there is none."""
        idle_s, made, read, sm_s = spare
        if idle_s <= 1e-6:
            return None
        return cls(idle_s, made / idle_s, read / idle_s, sm_s / idle_s)

    def seconds(self, one: Refused) -> float:
        """That one request takes of the engines."""
        context, made = one.context_tokens / one.n, one.generated_tokens / one.n
        return context / self.prefill_rate + made / self.decode_rate


@dataclass
class _Exchange:
    """One step: who may still take what."""

    spares: dict[int, _Spare]
    sent_s: dict[tuple[int, int | str], float] = field(default_factory=dict)
    """Request seconds of one site at a peer."""


def settled(scenario: Scenario, sites: Sequence[Account]) -> Sequence[Account]:
    """The sites' accounts with what they did for each other, and what clouds did for them."""
    if scenario.federation is None:
        return sites
    return _Settlement(scenario, scenario.federation, sites).accounts()


class _Settlement:
    def __init__(self, scenario: Scenario, spec: FederationSpec, sites: Sequence[Account]) -> None:
        self._scenario, self._spec, self._before = scenario, spec, sites
        self._after = [copy.deepcopy(site) for site in sites]
        regions = [spec.region_of(site) for site in range(len(sites))]
        self._regions = regions
        self._policies: list[dict[str, DataPolicy]] = [
            {tier: region.policy(tier) for tier in region.policies} for region in regions
        ]
        self._prices = [live_price(region.price) for region in regions]
        self._cloud_prices = [live_price(cloud.price) for cloud in spec.clouds]
        self._step_s = float(scenario.step_s)
        table = engines.of(scenario).at_speed(scenario.speed)
        self._token_s = table.max_concurrent / table.tokens_per_s

    def accounts(self) -> list[Account]:
        """Step by step; in each the sites take turns at being first."""
        n_sites = len(self._before)
        by_step: dict[int, list[tuple[int, Refused]]] = {}
        for number, site in enumerate(self._before):
            for row in site.refused:
                one = Refused(*row)
                by_step.setdefault(one.step, []).append((number, one))
        for step, asked in sorted(by_step.items()):
            asked.sort(key=lambda two: (two[0] + step) % n_sites)
            found = ((n, _Spare.of(site.spare[step])) for n, site in enumerate(self._before))
            exchange = _Exchange({number: spare for number, spare in found if spare is not None})
            for number, one in asked:
                self._send(number, one, exchange)
            self._give(step, exchange)
        return self._after

    def _send(self, home: int, one: Refused, exchange: _Exchange) -> None:
        policy = self._policies[home][one.tier]
        prompt = max(1, round(one.context_tokens / one.n))
        answer = max(1, round(one.generated_tokens / one.n))
        ways = self._ways(home, one, prompt, exchange)
        left = one.n
        for to in ways_out(policy, prompt, answer, prompt + answer, ways):
            if not left:
                break
            left -= self._take(home, to, one, left, exchange)

    def _ways(
        self, home: int, one: Refused, prompt: int, exchange: _Exchange
    ) -> list[Way[int | Cloud]]:
        spec, found = self._spec, list[Way[int | Cloud]]()
        for number, spare in exchange.spares.items():
            if number == home:
                continue
            region = self._regions[number]
            first_s = self._latency_s(home, number) + prompt / spare.prefill_rate
            room = self._room(home, number, one, exchange) > 0
            price = self._prices[number]
            found.append(
                Way(number, region.name, region.promises, spec.n_ctx, price, first_s, room)
            )
        for cloud, price in zip(spec.clouds, self._cloud_prices, strict=True):
            first_s = cloud.latency_s + cloud.first_token_s
            room = self._room(home, cloud, one, exchange) > 0
            found.append(Way(cloud, cloud.region, cloud.promises, spec.n_ctx, price, first_s, room))
        return found

    def _latency_s(self, home: int, number: int) -> float:
        within = self._regions[home] is self._regions[number]
        wall_s = self._spec.latency_within_s if within else self._spec.latency_between_s
        return wall_s * self._scenario.speed

    def _lasts_s(self, to: int | Cloud, one: Refused, exchange: _Exchange) -> float:
        """A request's time at a peer, alone there."""
        made = one.generated_tokens / one.n
        if isinstance(to, Cloud):
            wall_s = to.latency_s + to.first_token_s + made / to.tokens_per_s
            return wall_s * self._scenario.speed
        return exchange.spares[to].seconds(one) + made * self._token_s

    def _room(self, home: int, to: int | Cloud, one: Refused, exchange: _Exchange) -> int:
        """How many requests the peer takes of that site in what is left of this step."""
        most = to.max_concurrent if isinstance(to, Cloud) else self._spec.max_concurrent
        key = home, to.name if isinstance(to, Cloud) else to
        left_s = most * self._step_s - exchange.sent_s.get(key, 0.0)
        n = int(left_s / self._lasts_s(to, one, exchange))
        if isinstance(to, Cloud):
            return n
        spare = exchange.spares[to]
        return min(n, int((spare.idle_s - spare.given_s) / spare.seconds(one)))

    def _take(
        self, home: int, to: int | Cloud, one: Refused, n_left: int, exchange: _Exchange
    ) -> int:
        n = min(n_left, self._room(home, to, one, exchange))
        key = home, to.name if isinstance(to, Cloud) else to
        sent_s = n * self._lasts_s(to, one, exchange)
        exchange.sent_s[key] = exchange.sent_s.get(key, 0.0) + sent_s
        context, made = one.context_tokens * n // one.n, one.generated_tokens * n // one.n
        if isinstance(to, Cloud):
            first_s = (to.latency_s + to.first_token_s) * self._scenario.speed
            price, kind = self._cloud_prices[self._spec.clouds.index(to)], "clouds"
        else:
            spare = exchange.spares[to]
            spare.given_s += n * spare.seconds(one)
            prompt_s = one.context_tokens / one.n / spare.prefill_rate
            first_s = self._latency_s(home, to) + prompt_s + self._token_s
            price, kind = self._prices[to], "sites"
        self._bill(home, kind, one, (n, context, made), price)
        waits = Histogram(self._after[home].waits[one.tier])
        waits.add(first_s, n)
        self._after[home].waits[one.tier] = waits.counts
        return n

    def _bill(
        self, home: int, kind: str, one: Refused, done: tuple[int, int, int], price: Price
    ) -> None:
        """The tenant pays its site's price, and the site its peer's."""
        n, context, made = done
        account = self._after[home]
        counts, overflow = account.tiers[one.tier], account.overflow
        counts["moved"] += n
        counts["completed"] += n
        counts["context_tokens"] += context
        counts["generated_tokens"] += made
        counts["micro_usd"] += one.micro_usd * n // one.n
        counts["retry_after_s"] *= 1.0 - n / counts["refused_late"]
        counts["refused"] -= n
        counts["refused_late"] -= n
        overflow[f"to_{kind}"] = overflow.get(f"to_{kind}", 0) + n
        cost = price.amount_micro_usd(context, made)
        overflow[f"{kind}_micro_usd"] = overflow.get(f"{kind}_micro_usd", 0) + cost

    def _give(self, step: int, exchange: _Exchange) -> None:
        """What the hosts' engines did for others counts as their work."""
        energy = self._scenario.energy
        for number, spare in exchange.spares.items():
            if not spare.given_s:
                continue
            account = self._after[number]
            worked = spare.given_s * spare.leased
            account.ai_worked += worked
            days = account.daily
            days[min(len(days) - 1, int(step * self._step_s // 86_400))][2] += worked
            share = spare.leased / self._sm_count()
            watts = (energy.full_w - energy.idle_w) * self._scenario.gpus_per_site
            account.joules += watts * share * spare.given_s

    def _sm_count(self) -> int:
        return self._scenario.geometry().sm_count * self._scenario.gpus_per_site
