"""The order of waiting work: by tier, then fair between tenants, then by age. No clock, no I/O."""

from __future__ import annotations

import copy
import heapq
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from airan.core.errors import CapacityError, InvalidInputError

Tier = Literal["priority", "default", "flex"]
TIERS: tuple[Tier, ...] = ("priority", "default", "flex")

T = TypeVar("T")

_MAX_ROUNDS = 32
_MEAN_OF = 64
"""Tickets that the mean cost goes back over, older ones fading."""


@dataclass(frozen=True)
class Ticket(Generic[T]):
    """One piece of waiting work. `cost_tokens`: prompt and predicted answer; `sequence`: its age,
    unique, and lower for older work."""

    item: T
    tier: Tier
    tenant_id: str
    cost_tokens: int
    sequence: int


@dataclass
class _Line(Generic[T]):
    """One tenant's tickets in one tier, oldest first, and what it may still spend this round."""

    tickets: OrderedDict[int, Ticket[T]] = field(default_factory=OrderedDict)
    deficit_tokens: int = 0


class _TierQueue(Generic[T]):
    """Deficit round robin (Shreedhar and Varghese, 1995) between the tenants of one tier.

    The quantum is the mean cost, so that tenants take turns after a ticket or so for each unit of
    their weights, and not after as many as the largest ever seen would pay for. It is at least a
    32nd of that, so that `pop` goes round 32 times at most. Two tenants that both keep waiting
    never differ, over their weights, by more than a quantum and the largest cost.
    """

    def __init__(self) -> None:
        self.passed = 0
        """Tickets of other tiers taken since this tier, not empty, was last served."""
        self._returned: dict[int, Ticket[T]] = {}
        self._returned_order: list[int] = []
        self._lines: OrderedDict[str, _Line[T]] = OrderedDict()
        self._mean_tokens = 0.0
        self._n_pushed = 0
        self._largest_tokens = 1

    @property
    def _quantum_tokens(self) -> int:
        return max(1, round(self._mean_tokens), -(-self._largest_tokens // _MAX_ROUNDS))

    def __bool__(self) -> bool:
        return bool(self._returned or self._lines)

    def copy(self) -> _TierQueue[T]:
        made = copy.copy(self)
        made._returned, made._returned_order = dict(self._returned), list(self._returned_order)
        made._lines = OrderedDict(
            (tenant_id, _Line(OrderedDict(line.tickets), line.deficit_tokens))
            for tenant_id, line in self._lines.items()
        )
        return made

    def push(self, ticket: Ticket[T]) -> None:
        line = self._lines.get(ticket.tenant_id)
        if line is None:
            line = self._lines[ticket.tenant_id] = _Line()
        line.tickets[ticket.sequence] = ticket
        self._largest_tokens = max(self._largest_tokens, ticket.cost_tokens)
        self._n_pushed = min(self._n_pushed + 1, _MEAN_OF)
        self._mean_tokens += (ticket.cost_tokens - self._mean_tokens) / self._n_pushed

    def put_back(self, ticket: Ticket[T]) -> None:
        self._returned[ticket.sequence] = ticket
        heapq.heappush(self._returned_order, ticket.sequence)

    def returned(self) -> list[Ticket[T]]:
        return list(self._returned.values())

    def pop(self, weights: Mapping[str, int]) -> Ticket[T]:
        quantum_tokens = self._quantum_tokens
        while self._returned_order:
            # What was removed in the meantime is still in the order.
            returned = self._returned.pop(heapq.heappop(self._returned_order), None)
            if returned is not None:
                return returned
        while True:
            tenant_id, line = next(iter(self._lines.items()))
            ticket = next(iter(line.tickets.values()))
            if ticket.cost_tokens <= line.deficit_tokens:
                line.deficit_tokens -= ticket.cost_tokens
                self._take_out(line, ticket)
                return ticket
            # What a tenant has left over stays with it; its turn goes to the next.
            line.deficit_tokens += quantum_tokens * weights.get(tenant_id, 1)
            self._lines.move_to_end(tenant_id)

    def remove(self, ticket: Ticket[T]) -> None:
        if self._returned.pop(ticket.sequence, None) is None:
            self._take_out(self._lines[ticket.tenant_id], ticket)

    def _take_out(self, line: _Line[T], ticket: Ticket[T]) -> None:
        del line.tickets[ticket.sequence]
        if not line.tickets:
            # An idle tenant saves nothing up.
            del self._lines[ticket.tenant_id]


class FairQueue(Generic[T]):
    """Waiting work of all tiers, for one kind of capacity (the engines of one model).

    Higher tiers go first, but a tier that waits is passed over at most `max_passed` times in a row
    (plus once for each other tier whose turn is as overdue): flex work is slow, never starved.
    `weights`, by tenant, 1 where there is none, are looked up at each visit: they may be changed.
    """

    def __init__(
        self,
        *,
        weights: Mapping[str, int] | None = None,
        max_per_tenant: int = 512,
        max_passed: int = 32,
    ) -> None:
        self._weights: Mapping[str, int] = {} if weights is None else weights
        for tenant_id, weight in self._weights.items():
            if weight < 1:
                raise InvalidInputError(
                    "weights", f"tenant {tenant_id} has weight {weight}", remedy="use 1 or more"
                )
        self._max_per_tenant = max_per_tenant
        self._max_passed = max_passed
        self._tiers: dict[Tier, _TierQueue[T]] = {tier: _TierQueue() for tier in TIERS}
        self._tickets: dict[int, Ticket[T]] = {}
        self._n_by_tenant: dict[str, int] = {}
        self._n_by_tier: dict[Tier, int] = dict.fromkeys(TIERS, 0)

    def __len__(self) -> int:
        return len(self._tickets)

    def __contains__(self, sequence: object) -> bool:
        return sequence in self._tickets

    def __iter__(self) -> Iterator[Ticket[T]]:
        """All that waits, oldest first."""
        return iter(sorted(self._tickets.values(), key=lambda ticket: ticket.sequence))

    def waiting(self, tier: Tier) -> int:
        """How many tickets of that tier wait."""
        return self._n_by_tier[tier]

    def check_room(self, tenant_id: str, n_coming: int = 0) -> None:
        """Lets one more ticket of the tenant's in, besides `n_coming` on their way.

        Raises:
            CapacityError: the tenant has `max_per_tenant` tickets already.
        """
        n_waiting = self._n_by_tenant.get(tenant_id, 0) + n_coming
        if n_waiting >= self._max_per_tenant:
            raise CapacityError(
                f"{n_waiting} requests of tenant {tenant_id} are waiting already",
                remedy="try again when some of them have ended",
            )

    def push(self, ticket: Ticket[T], *, accepted: bool = False) -> None:
        """Puts new work at the end of its tenant's line; `accepted` work is never refused.

        Raises:
            CapacityError: the tenant has `max_per_tenant` tickets waiting already.
        """
        if not accepted:
            self.check_room(ticket.tenant_id)
        self._tiers[ticket.tier].push(ticket)
        self._count(ticket)

    def returned(self) -> list[Ticket[T]]:
        """Interrupted work that waits, in no order."""
        return [ticket for tier in self._tiers.values() for ticket in tier.returned()]

    def ahead_of(self, ticket: Ticket[T]) -> list[Ticket[T]]:
        """What would be taken before that ticket, pushed now, if nothing else came."""
        trial = copy.copy(self)
        trial._tiers = {tier: queue.copy() for tier, queue in self._tiers.items()}
        trial._tickets = dict(self._tickets)
        trial._n_by_tenant = dict(self._n_by_tenant)
        trial._n_by_tier = dict(self._n_by_tier)
        trial.push(ticket, accepted=True)
        before: list[Ticket[T]] = []
        while (taken := trial.pop()) is not None and taken is not ticket:
            before.append(taken)
        return before

    def put_back(self, ticket: Ticket[T]) -> None:
        """Puts interrupted work at the head of its tier. It was paid for when first popped, and
        the bound on a tenant's line does not apply: accepted work is never refused."""
        self._tiers[ticket.tier].put_back(ticket)
        self._count(ticket)

    def pop(self) -> Ticket[T] | None:
        """Takes out the ticket whose turn it is; None if nothing waits."""
        waiting = [tier for tier in TIERS if self._tiers[tier]]
        if not waiting:
            return None
        overdue = [tier for tier in waiting if self._tiers[tier].passed >= self._max_passed]
        chosen = max(overdue, key=lambda tier: self._tiers[tier].passed) if overdue else waiting[0]
        for tier in waiting:
            self._tiers[tier].passed += 1
        ticket = self._tiers[chosen].pop(self._weights)
        self._tiers[chosen].passed = 0
        self._discount(ticket)
        return ticket

    def remove(self, sequence: int) -> bool:
        """Takes a ticket out of turn; False if it is not waiting."""
        ticket = self._tickets.get(sequence)
        if ticket is None:
            return False
        tier = self._tiers[ticket.tier]
        tier.remove(ticket)
        if not tier:
            tier.passed = 0
        self._discount(ticket)
        return True

    def _count(self, ticket: Ticket[T]) -> None:
        self._tickets[ticket.sequence] = ticket
        self._n_by_tenant[ticket.tenant_id] = self._n_by_tenant.get(ticket.tenant_id, 0) + 1
        self._n_by_tier[ticket.tier] += 1

    def _discount(self, ticket: Ticket[T]) -> None:
        del self._tickets[ticket.sequence]
        self._n_by_tier[ticket.tier] -= 1
        self._n_by_tenant[ticket.tenant_id] -= 1
        if not self._n_by_tenant[ticket.tenant_id]:
            del self._n_by_tenant[ticket.tenant_id]
