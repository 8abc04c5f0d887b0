"""Several gateways before the same engines, which hear of each other a moment late. Simulated."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airan.core.clock import ManualClock
from marketplace.chat import parse_chat_request
from marketplace.dispatch.common import CommonEngines
from marketplace.dispatch.lengths import Lengths
from marketplace.dispatch.lines import WaitingLines
from marketplace.dispatch.places import rooms_for
from marketplace.dispatch.queue import TIERS, Tier
from marketplace.dispatch.turns import Turn, Turns, can_yield
from marketplace.engines.base import EngineState
from marketplace.jobs import Job
from marketplace.pool import PooledEngine
from marketplace.principal import Principal
from marketplace.siblings.sibling import Report, Sibling
from tests.marketplace.test_shares import one_by_one

MODEL = "m"
STEP_S = 0.25


def a_job(tier: Tier) -> Job:
    body = {"model": MODEL, "messages": [], "max_tokens": 4, "service_tier": tier}
    body["messages"] = [{"role": "user", "content": "x"}]
    job = Job("sync", Principal("tenant", "key"), parse_chat_request(body), 0.0, 0.0)
    job.prompt_ids, job.max_tokens = [1], 4
    return job


class Gateway:
    """What a dispatcher decides by, and as it does, without the work itself."""

    def __init__(self, number: int, clock: ManualClock, places: list[int]) -> None:
        self.number, self.clock = number, clock
        self.turns, lengths = Turns(), Lengths()
        self.lines = WaitingLines([MODEL], lengths, {}, 10_000)
        self.common = CommonEngines(self.turns, self.lines, clock)
        self.engines = [PooledEngine(f"agent-{index}") for index in range(len(places))]
        for index, (engine, n) in enumerate(zip(self.engines, places, strict=True)):
            state = EngineState(f"engine-{index}", MODEL, "ready", url=f"http://{index}")
            engine.state = EngineState(**state.to_dict() | {"max_concurrent": n, "n_slots": n})
        self.common.engines = self.engines
        self.heard: dict[int, Report] = {}

    def ask(self, tier: Tier, n: int = 1) -> None:
        for _ in range(n):
            self.lines.join(a_job(tier))
            self.pump()

    def hear(self, number: int, report: Report) -> None:
        self.heard[number] = report
        found = [Sibling(str(n), n, "", one) for n, one in self.heard.items()]
        self.common.meet(found, self.number)
        self.pump()

    def pump(self) -> None:
        while self.lines.of(MODEL):
            rooms = rooms_for(MODEL, self.engines, self.common, self.clock.monotonic_s())
            if not rooms:
                break
            job = self.lines.take(MODEL)
            assert job is not None
            free = [slot for slot in range(rooms[0].n_slots) if slot not in rooms[0].used]
            turn = Turn(job, rooms[0].engine, free[0])
            turn.protected = self.waiting("priority") > 0 or self.common.is_overdue(MODEL)
            self.turns.begin(turn)
        n_cut = self.lines.of(MODEL).waiting("priority") + len(self.common.wanted(MODEL))
        flex = [turn for turn in self.turns if can_yield(turn)]
        for turn in flex[:n_cut]:
            self.turns.end(turn.job)
            self.lines.put_back(turn.job)
        if flex[:n_cut]:
            self.pump()

    def end(self, turn: Turn) -> None:
        self.turns.end(turn.job)
        self.pump()

    def running(self, tier: Tier) -> int:
        return sum(turn.tier == tier for turn in self.turns)

    def waiting(self, tier: Tier) -> int:
        return self.lines.of(MODEL).waiting(tier)


@dataclass
class Cluster:
    """Gateways that report to each other with delays."""

    places: list[int]
    n_gateways: int
    seed: int
    most_steps_late: int
    clock: ManualClock = field(default_factory=lambda: ManualClock(1_000.0))

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        seats = self.chance.sample(range(2 * self.n_gateways), self.n_gateways)
        self.gateways = [Gateway(seat, self.clock, self.places) for seat in sorted(seats)]
        self.under_way: list[tuple[int, Gateway, int, Report]] = []
        self.last_due: dict[tuple[int, int], int] = {}
        self.n_steps = 0
        for one in self.gateways:
            self.tell(one, 0)
        self.deliver()

    def tell(self, sender: Gateway, most_late: int) -> None:
        report = Report.from_dict(sender.common.report().to_dict())
        for one in self.gateways:
            if one is not sender:
                due = self.n_steps + self.chance.randint(0, most_late)
                # What is said later is never heard before.
                due = max(due, self.last_due.get((sender.number, one.number), 0))
                self.last_due[sender.number, one.number] = due
                self.under_way.append((due, one, sender.number, report))

    def deliver(self) -> None:
        due = [one for one in self.under_way if one[0] <= self.n_steps]
        self.under_way = [one for one in self.under_way if one[0] > self.n_steps]
        for _, receiver, number, report in due:
            receiver.hear(number, report)

    def step(self, end_part: float, *, again: bool = False) -> None:
        """A quarter of a second: some answers end, reports come and are sent."""
        self.n_steps += 1
        self.clock.advance(STEP_S)
        for gateway in self.gateways:
            for turn in gateway.turns:
                if self.chance.random() < end_part and gateway.turns.of(turn.job) is turn:
                    gateway.end(turn)
                    if again:
                        gateway.ask(turn.tier)
        self.deliver()
        for gateway in self.gateways:
            gateway.pump()
            self.tell(gateway, self.most_steps_late)

    def calm_down(self, end_part: float, *, again: bool = False) -> None:
        """What was begun too much, for not having been heard of, ends as answers do."""
        for _ in range(200):
            self.settle()
            if all(self.n_running(at) <= n for at, n in enumerate(self.places)):
                return
            self.step(end_part, again=again)
        pytest.fail("more than there are places keep running")

    def settle(self) -> None:
        """Nothing ends or comes any more, and everybody knows."""
        for _ in range(4 * len(self.places) + 12):
            self.n_steps += self.most_steps_late
            self.deliver()
            for gateway in self.gateways:
                gateway.pump()
                self.tell(gateway, 0)
            self.deliver()

    def n_running(self, number: int) -> int:
        return sum(one.turns.count(one.engines[number]) for one in self.gateways)

    def check_that_no_place_is_wasted(self) -> None:
        for number, n_places in enumerate(self.places):
            assert self.n_running(number) <= n_places
        if any(one.lines.of(MODEL) for one in self.gateways):
            assert sum(map(self.n_running, range(len(self.places)))) == sum(self.places)
        # Of what default work needs, that is more than there is, a gateway may have flex work left.
        if any(one.waiting("priority") for one in self.gateways) and self._higher_tiers_fit():
            assert not any(can_yield(turn) for one in self.gateways for turn in one.turns)

    def _higher_tiers_fit(self) -> bool:
        needs = [
            one.running(tier) + one.waiting(tier) for one in self.gateways for tier in TIERS[:2]
        ]
        n_protected = sum(turn.protected for one in self.gateways for turn in one.turns)
        return len(self.places) == 1 and sum(needs) + n_protected <= self.places[0]


_SEEDS = st.integers(0, 2**32)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.integers(2, 4),
    st.integers(0, 4),
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(TIERS)), max_size=60),
    _SEEDS,
)
def test_no_more_runs_than_there_are_places_and_none_is_idle_while_somebody_waits(
    places: list[int], n_gateways: int, late: int, asked: list[tuple[int, Tier]], seed: int
) -> None:
    cluster = Cluster(places, n_gateways, seed, late)
    for number, tier in asked:
        cluster.gateways[number % n_gateways].ask(tier)
        if cluster.chance.random() < 0.5:
            cluster.step(0.2)
    cluster.calm_down(0.2)
    cluster.check_that_no_place_is_wasted()


@given(
    st.integers(1, 12),
    st.lists(st.tuples(*[st.integers(0, 10)] * 3), min_size=2, max_size=4),
    st.integers(0, 3),
    _SEEDS,
)
def test_the_places_end_up_max_min_fair(
    n_places: int, asked: list[tuple[int, int, int]], late: int, seed: int
) -> None:
    cluster = Cluster([n_places], len(asked), seed, late)
    order = [
        (gateway, tier)
        for gateway, counts in zip(cluster.gateways, asked, strict=True)
        for tier, n in zip(TIERS, counts, strict=True)
        for _ in range(n)
    ]
    cluster.chance.shuffle(order)
    for gateway, tier in order:
        gateway.ask(tier)
        if cluster.chance.random() < 0.2:
            cluster.step(0.2, again=True)
    # Each asks anew for what has ended: needs stay as they are.
    for _ in range(60):
        cluster.step(0.3, again=True)
    cluster.calm_down(0.05, again=True)
    cluster.check_that_no_place_is_wasted()
    fair = one_by_one(n_places, list(asked), 0)
    needs = [sum(counts) for counts in asked]
    for gateway, share, need in zip(cluster.gateways, fair, needs, strict=True):
        assert min(share, need) - 1 <= len(gateway.turns) <= min(share, need) + 1


@pytest.fixture
def two() -> Cluster:
    return Cluster([4], 2, 1, 0)


def test_an_idle_gateway_has_a_place_at_once_where_one_is_free(two: Cluster) -> None:
    busy, idle = two.gateways
    busy.ask("default", 3)
    two.settle()
    idle.ask("flex")
    assert (len(busy.turns), len(idle.turns)) == (3, 1)


def test_the_busy_gateway_uses_what_the_idle_one_leaves(two: Cluster) -> None:
    busy, _ = two.gateways
    busy.ask("flex", 6)
    assert len(busy.turns) == 4


def test_a_gateway_waits_for_the_places_that_others_are_still_on(two: Cluster) -> None:
    busy, other = two.gateways
    busy.ask("default", 6)
    two.settle()
    other.ask("default", 3)
    two.settle()
    assert (len(busy.turns), len(other.turns)) == (4, 0)
    for n_ended in (1, 2, 3):
        busy.end(next(iter(busy.turns)))
        assert len(busy.turns) == 4 - min(n_ended, 2)
        two.settle()
        assert len(other.turns) == min(n_ended, 2)


def test_flex_work_makes_room_for_priority_work_at_another_gateway(two: Cluster) -> None:
    busy, other = two.gateways
    busy.ask("flex", 6)
    two.settle()
    other.ask("priority")
    assert not len(other.turns)
    two.settle()
    assert (busy.running("flex"), busy.waiting("flex")) == (3, 3)
    assert other.running("priority") == 1


def test_who_has_flex_work_cuts_off_its_own_for_its_priority_work(two: Cluster) -> None:
    busy, other = two.gateways
    for gateway in (busy, busy, busy, other):
        gateway.ask("flex")
    two.settle()
    other.ask("priority")
    two.settle()
    assert (busy.running("flex"), other.running("flex")) == (3, 0)
    assert other.running("priority") == 1


def test_of_several_gateways_one_makes_room() -> None:
    cluster = Cluster([6], 3, 1, 0)
    first, second, asking = cluster.gateways
    for gateway in (first, second):
        gateway.ask("flex", 3)
    cluster.settle()
    asking.ask("priority")
    cluster.settle()
    assert sorted((len(first.turns), len(second.turns))) == [2, 3]
    assert len(asking.turns) == 1


def test_default_work_waits_for_flex_work_elsewhere_to_end(two: Cluster) -> None:
    busy, other = two.gateways
    busy.ask("flex", 4)
    two.settle()
    other.ask("default")
    two.settle()
    assert (len(busy.turns), len(other.turns)) == (4, 0)


def test_work_of_a_gateway_that_never_has_a_place_goes_first_in_the_end(two: Cluster) -> None:
    busy, other = two.gateways
    busy.ask("default", 9)
    two.settle()
    other.ask("flex")
    for _ in range(150):
        two.step(0.2, again=True)
        assert not other.running("flex") or two.clock.monotonic_s() >= 1_030.0
        if other.running("flex"):
            break
    assert other.running("flex") == 1


def test_a_single_place_goes_from_gateway_to_gateway() -> None:
    cluster = Cluster([1], 3, 1, 0)
    for gateway in cluster.gateways:
        gateway.ask("default")
        cluster.settle()
    n_served = [0, 0, 0]
    for _ in range(400):
        before = [len(gateway.turns) for gateway in cluster.gateways]
        cluster.step(0.5, again=True)
        for number, gateway in enumerate(cluster.gateways):
            n_served[number] += len(gateway.turns) > before[number]
        assert cluster.n_running(0) <= 1
    assert min(n_served) > 10


def test_of_an_engine_that_takes_fewer_each_keeps_its_share(two: Cluster) -> None:
    first, second = two.gateways
    for _ in range(3):
        first.ask("flex")
    second.ask("default")
    two.settle()
    kept = []
    for gateway in two.gateways:
        (engine,) = gateway.engines
        engine.state = EngineState(**engine.state.to_dict() | {"max_concurrent": 2})
        kept.append(gateway.common.kept(engine))
    assert kept == [1, 1]


def test_no_place_is_kept_for_a_gateway_that_cannot_reach_the_engine(two: Cluster) -> None:
    here, cut_off = two.gateways
    (engine,) = cut_off.engines
    engine.state = EngineState(**engine.state.to_dict() | {"phase": "lost", "url": ""})
    for gateway in (cut_off, here):
        gateway.ask("priority", 6)
        two.settle()
    assert (len(here.turns), len(cut_off.turns)) == (4, 0)
    # It waits for engines of its own.
    assert (here.common.load(MODEL), here.common.n_waiting_elsewhere(MODEL)) == (0, 0)


def test_load_is_told_alike_by_all(two: Cluster) -> None:
    for gateway, n in zip(two.gateways, (5, 2), strict=True):
        gateway.ask("default", n)
    two.settle()
    assert [
        sum(gateway.turns.count(one) for one in gateway.engines)
        + len(gateway.lines)
        + gateway.common.load(MODEL)
        for gateway in two.gateways
    ] == [7, 7]


def test_a_gateway_that_has_gone_leaves_everything(two: Cluster) -> None:
    first, second = two.gateways
    for gateway in two.gateways:
        gateway.ask("default", 6)
        two.settle()
    while len(first.turns) > 2:
        first.end(next(iter(first.turns)))
        two.settle()
    assert (len(first.turns), len(second.turns)) == (2, 2)
    assert first.common.is_shared
    first.common.meet([], first.number)
    first.pump()
    assert (len(first.turns), first.common.is_shared) == (4, False)
