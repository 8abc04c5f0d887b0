"""Sustained overload, in simulated time: what was let in is kept, and the engine is not idle."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from marketplace.dispatch import TtftTargets
from tests.marketplace.bench_of_engines import Bench, bench_of_engines
from tests.marketplace.overload import (
    Outcomes,
    Pace,
    Player,
    Sent,
    add_shared_engine,
    requests,
    steady,
    warm_up,
)

TARGETS = TtftTargets()


def swinging(passed_s: float) -> float:
    """Up to a third faster and slower within a minute and a half."""
    return 1.0 + 0.33 * math.sin(passed_s / 14.0)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_of_engines(tmp_path) as bench:
        who = await bench.principal("assistant")
        bench.dispatcher.desk.weights[who.tenant_id] = 2
        yield bench


async def overload(bench: Bench, pace: Pace, seed: int, per_s: float) -> dict[str, Outcomes]:
    """What comes of four minutes of it, while the lease goes every 10 s."""
    await add_shared_engine(bench, pace)
    await warm_up(bench)
    found = await Player(bench).play(requests(seed, per_s=per_s, duration_s=240.0))
    return {str(tier): outcomes for tier, outcomes in found.items()}


@pytest.mark.parametrize(
    ("pace", "seed", "most_late"), [(steady, 0, 0.02), (steady, 1, 0.02), (swinging, 2, 0.03)]
)
async def test_hardly_any_accepted_request_of_the_default_tier_comes_late(
    bench: Bench, pace: Pace, seed: int, most_late: float
) -> None:
    found = await overload(bench, pace, seed, per_s=3.0)
    default = found["default"]
    n_late = default.late(TARGETS.default)
    # Twice what the engine can do: about as many are refused as are let in.
    assert len(default.refused) > 0.3 * len(default.waits_s)
    assert n_late <= most_late * len(default.waits_s)
    # Who is refused is told so for a reason: there is always a line.
    later = sorted(default.waits_s[len(default.waits_s) // 4 :])
    assert later[len(later) // 2] > 0.25 * TARGETS.default
    assert len(found["flex"].refused) <= 0.05 * len(found["flex"].waits_s)


async def test_what_the_engine_can_do_is_not_refused(bench: Bench) -> None:
    found = await overload(bench, steady, 3, per_s=0.8)
    assert not found["default"].refused
    assert len(found["flex"].refused) <= 0.05 * len(found["flex"].waits_s)
    assert found["default"].late(TARGETS.default) == 0
    assert len(found["priority"].refused) <= 1


async def test_after_an_overload_everything_is_let_in_again(bench: Bench) -> None:
    await overload(bench, steady, 4, per_s=3.0)
    few = [Sent(4.0 * n, "search", "default", 60, 12) for n in range(20)]
    found = await Player(bench).play(few)
    assert not found["default"].refused
    assert found["default"].late(TARGETS.default) == 0
