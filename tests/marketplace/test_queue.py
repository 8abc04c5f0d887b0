"""The order in which waiting jobs are taken: tier, fair share, age."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airan.core.errors import CapacityError, InvalidInputError
from marketplace.dispatch.queue import TIERS, FairQueue, Ticket, Tier


def _ticket(
    sequence: int, tier: Tier = "default", tenant: str = "a", cost: int = 10
) -> Ticket[str]:
    return Ticket(f"job {sequence}", tier, tenant, cost, sequence)


def _sequences(queue: FairQueue[str]) -> list[int]:
    taken = []
    while (ticket := queue.pop()) is not None:
        taken.append(ticket.sequence)
    return taken


def test_higher_tiers_go_first_and_older_work_first_within_a_tenant() -> None:
    queue: FairQueue[str] = FairQueue()
    for sequence, tier in enumerate(("flex", "default", "priority", "default", "priority")):
        queue.push(_ticket(sequence, tier))  # type: ignore[arg-type]
    assert _sequences(queue) == [2, 4, 1, 3, 0]


def test_interrupted_work_goes_before_new_work_of_its_tier_but_not_of_a_higher_one() -> None:
    queue: FairQueue[str] = FairQueue()
    for sequence, tier in ((5, "default"), (6, "priority")):
        queue.push(_ticket(sequence, tier))  # type: ignore[arg-type]
    queue.put_back(_ticket(2))
    queue.put_back(_ticket(1))
    assert _sequences(queue) == [6, 1, 2, 5]


def test_a_full_line_refuses_its_own_tenant_only_and_never_interrupted_work() -> None:
    queue: FairQueue[str] = FairQueue(max_per_tenant=1)
    queue.push(_ticket(1))
    with pytest.raises(CapacityError):
        queue.push(_ticket(2))
    queue.push(_ticket(3, tenant="b"))
    queue.put_back(_ticket(0))
    assert _sequences(queue) == [0, 1, 3]
    queue.push(_ticket(4))


def test_a_weight_below_one_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        FairQueue(weights={"a": 0})


_COSTS = st.lists(st.integers(1, 500), min_size=40, max_size=40)


@given(st.lists(_COSTS, min_size=2, max_size=5), st.data())
def test_tenants_with_a_backlog_get_token_shares_by_weight(
    costs: list[list[int]], data: st.DataObject
) -> None:
    weights = {str(n): data.draw(st.integers(1, 3)) for n in range(len(costs))}
    queue: FairQueue[str] = FairQueue(weights=weights)
    waiting = {str(n): len(line) for n, line in enumerate(costs)}
    for n, line in enumerate(costs):
        for k, cost in enumerate(line):
            queue.push(_ticket(100 * n + k, tenant=str(n), cost=cost))
    largest = max(max(line) for line in costs)
    served = dict.fromkeys(waiting, 0)
    while all(waiting.values()):
        ticket = queue.pop()
        assert ticket is not None
        waiting[ticket.tenant_id] -= 1
        served[ticket.tenant_id] += ticket.cost_tokens
        shares = [served[tenant] / weights[tenant] for tenant in served]
        assert max(shares) - min(shares) <= 2 * largest


def test_one_huge_request_does_not_make_the_turns_of_all_later_ones_long() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push(_ticket(0, cost=3200))
    assert queue.pop() is not None
    for n in range(64):
        queue.push(_ticket(1 + 2 * n, tenant="a", cost=100))
        queue.push(_ticket(2 + 2 * n, tenant="b", cost=100))
    turns = [ticket.tenant_id for _ in range(64) if (ticket := queue.pop()) is not None]
    longest = max(len(list(group)) for _, group in itertools.groupby(turns))
    assert longest <= 4


@given(st.integers(1, 20))
def test_flex_waits_no_longer_than_the_bound(max_passed: int) -> None:
    queue: FairQueue[str] = FairQueue(max_per_tenant=10**6, max_passed=max_passed)
    queue.push(_ticket(0, "flex"))
    for n in range(1, max_passed + len(TIERS)):
        queue.push(_ticket(2 * n, "priority"))
        queue.push(_ticket(2 * n + 1, "default"))
        ticket = queue.pop()
        assert ticket is not None
        if ticket.tier == "flex":
            return
    pytest.fail(f"flex was passed over more than {max_passed + len(TIERS) - 1} times")


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(("push", "put_back", "pop", "remove")),
        st.sampled_from(TIERS),
        st.sampled_from("abc"),
        st.integers(1, 99),
    ),
    max_size=80,
)


@given(_STEPS)
def test_every_ticket_leaves_exactly_once(steps: list[tuple[str, Tier, str, int]]) -> None:
    queue: FairQueue[str] = FairQueue()
    inside: set[int] = set()
    for sequence, (step, tier, tenant, number) in enumerate(steps):
        if step == "pop":
            ticket = queue.pop()
            assert (ticket is None) == (not inside)
            if ticket is not None:
                inside.remove(ticket.sequence)
        elif step == "remove":
            assert queue.remove(number) == (number in inside)
            inside.discard(number)
        else:
            add = queue.push if step == "push" else queue.put_back
            add(_ticket(sequence, tier, tenant, number))
            inside.add(sequence)
        assert len(queue) == len(inside)
    assert set(_sequences(queue)) == inside


@given(_STEPS, st.sampled_from(TIERS), st.sampled_from("abc"))
def test_what_is_ahead_of_a_ticket_is_what_is_taken_before_it(
    steps: list[tuple[str, Tier, str, int]], tier: Tier, tenant: str
) -> None:
    queue: FairQueue[str] = FairQueue()
    for sequence, (step, *rest) in enumerate(steps):
        if step == "pop":
            queue.pop()
        elif step != "remove":
            (queue.push if step == "push" else queue.put_back)(_ticket(sequence, *rest))
    n_before = len(queue)
    last = _ticket(len(steps), tier, tenant, 50)
    ahead = [ticket.sequence for ticket in queue.ahead_of(last)]
    assert len(queue) == n_before
    queue.push(last)
    order = _sequences(queue)
    assert ahead == order[: order.index(last.sequence)]
