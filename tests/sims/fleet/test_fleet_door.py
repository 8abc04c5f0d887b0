"""Who gets in at a simulated site, who comes again, and who is refused for good."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.billing.prices import PriceList
from marketplace.dispatch.admission import TtftTargets, Work
from marketplace.money import Price
from sims.fleet import engines
from sims.fleet.admission import Admission, Engines
from sims.fleet.cohort import Cohort, shared
from sims.fleet.desk import Desk
from sims.fleet.door import Door
from sims.fleet.serving import Serving
from sims.fleet.traffic import Stream

TABLE = engines.table("llama-8b-h100")
STEP_S = 60.0


def _stream(tier: str, *requests: int, tenant: str = "a") -> Stream:
    each = np.array(requests, np.int64)
    return Stream(tier, f"{tier}-{tenant}", each, each * 1000, each * 200)


def _desk(gate: Admission | None = None, *, retries: int = 0, max_waiting: int = 512) -> Desk:
    book = PriceList([], {"simulated": Price(100, 400)})
    return Desk(book, gate, max_waiting=max_waiting, retries=retries)


def _serve(serving: Serving, n_steps: int, sms: int = 64) -> None:
    serving.engines([sms], 0.0)
    for step in range(n_steps):
        serving.arrive(step, STEP_S * step)
        serving.advance(STEP_S * step, STEP_S)


@given(st.integers(0, 500), st.lists(st.integers(0, 90), min_size=1, max_size=6))
def test_of_all_the_same_part_is_taken(n: int, counts: list[int]) -> None:
    n = min(n, sum(counts))
    if sum(counts):
        found = shared(n, counts)
        assert sum(found) == n
        for mine, count in zip(found, counts, strict=True):
            assert 0 <= mine <= count
            assert abs(mine - count * n / sum(counts)) < 1.0 + 1e-9


def test_a_tenant_has_no_more_waiting_than_the_bound() -> None:
    streams = [_stream("flex", *[3000] * 20, tenant=one) for one in "ab"]
    serving = Serving(TABLE, streams, STEP_S, _desk())
    _serve(serving, 20)
    serving.arrive(19, STEP_S * 20)
    count = serving.tiers["flex"]
    places = TABLE.concurrent(64)
    open_n = count.arrived - count.refused - count.generated_tokens / 200
    # What has just come is judged when the step is over.
    assert 512 <= open_n - 6000 <= 2 * 512 + places + 1
    assert count.refused == count.refused_full
    assert serving.worked_s == pytest.approx(20 * STEP_S)
    # They wait as long as the line is, to a step.
    line_s = (2 * 512 + places) * (200 / serving.rates[0] + 1000 / serving.rates[1])
    usual, longest = (serving.waits["flex"].quantile(part) for part in (0.5, 0.99))
    assert usual == pytest.approx(line_s, rel=0.3)
    assert line_s < longest < line_s + STEP_S  # type: ignore[operator]


def test_an_engine_that_keeps_up_turns_nobody_away() -> None:
    serving = Serving(TABLE, [_stream("default", *[600] * 10)], STEP_S, _desk())
    _serve(serving, 10)
    assert serving.tiers["default"].refused == 0
    assert serving.tiers["default"].completed == 6000


def test_who_is_turned_away_comes_again_as_often_as_it_tries() -> None:
    serving = Serving(TABLE, [_stream("flex", 4000, 0, 0, 0)], STEP_S, _desk(retries=2))
    _serve(serving, 4)
    count = serving.tiers["flex"]
    serving.advance(4 * STEP_S, 3600.0)
    assert count.arrived == 4000
    assert count.completed + count.refused == 4000
    assert count.retried > count.refused > 0
    alone = Serving(TABLE, [_stream("flex", 4000, 0, 0, 0)], STEP_S, _desk())
    _serve(alone, 4)
    alone.advance(4 * STEP_S, 3600.0)
    assert alone.tiers["flex"].completed < count.completed
    made = count.generated_tokens / count.completed
    assert made == pytest.approx(200.0, rel=1e-3)


def _let(retries: int) -> tuple[Door, Admission]:
    gate = Admission(TtftTargets(), STEP_S)
    gate.engines(Engines(5000.0, 20_000.0), 0.0)
    return Door([_stream("default", 9000, 0, 0, 0)], STEP_S, _desk(gate, retries=retries)), gate


def test_who_is_refused_as_too_late_comes_again_and_asks_the_live_check_again() -> None:
    door, gate = _let(retries=1)
    first = door.let_in("default", 0, Work(0, 0), 0.0, 1000)
    inside = sum(one.n for one in first)
    assert 0 < inside < 9000
    assert door.tiers["default"].refused == 0
    again = door.let_in("default", 1, Work(0, 0), STEP_S, 1000)
    count = door.tiers["default"]
    assert count.retried == 9000 - inside
    assert count.refused_late == 9000 - inside - sum(one.n for one in again)
    assert count.retry_after_s > 0.0
    assert gate is not None


def test_who_does_not_try_again_is_refused_at_once() -> None:
    door, _ = _let(retries=0)
    inside = sum(one.n for one in door.let_in("default", 0, Work(0, 0), 0.0, 1000))
    assert door.tiers["default"].refused_late == 9000 - inside
    assert door.let_in("default", 1, Work(0, 0), STEP_S, 1000) == []


@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=4),
    st.integers(0, 1000),
    st.floats(0.0, 1.0),
)
def test_turning_away_loses_no_request_and_no_token(tries: list[int], n: int, left: float) -> None:
    total = sum(tries)
    cohort = Cohort("flex", "a", total, total * 333, total * 77, 0.0, Price(1, 1), list(tries))
    cohort.left = left
    n = min(n, int(cohort.n_left))
    if not n:
        return
    done = total * (1.0 - left)
    gone = cohort.turn_away(n)
    assert sum(one.n for one in gone) == n
    assert sum(cohort.tries) == cohort.n == total - n
    assert sum(one.context_tokens for one in gone) + cohort.context_tokens == total * 333
    assert sum(one.generated_tokens for one in gone) + cohort.generated_tokens == total * 77
    assert cohort.n * (1.0 - cohort.left) == pytest.approx(done, abs=1e-6) or not cohort.n
