"""The jobs that wait for an engine: one fair queue a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import takewhile

from marketplace.dispatch.lengths import Lengths
from marketplace.dispatch.queue import TIERS, FairQueue, Ticket, Tier
from marketplace.jobs import Job

JobTicket = Ticket[Job]


class WaitingLines:
    """Jobs without an engine, in the order in which they will get one.

    `weights`: of tenants, by id, where they are not 1; looked up at each visit.
    """

    def __init__(
        self,
        models: list[str],
        lengths: Lengths,
        weights: Mapping[str, int],
        max_per_tenant: int,
    ) -> None:
        self._weights = weights
        self._max_per_tenant = max_per_tenant
        self._queues: dict[str, FairQueue[Job]] = {}
        for model in models:
            self.of(model)
        self._lengths = lengths
        self._sequence = 0
        self._entering: dict[str, dict[Job, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[Job]:
        """All jobs that wait, the oldest of each model first."""
        return (ticket.item for queue in self._queues.values() for ticket in queue)

    @property
    def models(self) -> list[str]:
        """The models there are lines for."""
        return list(self._queues)

    def of(self, model: str) -> FairQueue[Job]:
        """The line before that model's engines. A model no longer offered may have jobs left."""
        queue = self._queues.get(model)
        if queue is None:
            queue = self._queues[model] = FairQueue(
                weights=self._weights, max_per_tenant=self._max_per_tenant
            )
        return queue

    @contextmanager
    def entering(self, job: Job) -> Iterator[None]:
        """Keeps a place for a job while it is being accepted.

        Raises:
            CapacityError: its tenant has as many jobs waiting for the model as it may have.
        """
        others = self._entering.setdefault(job.model, {})
        tenant_id = job.principal.tenant_id
        n_coming = sum(other.principal.tenant_id == tenant_id for other in others)
        self.of(job.model).check_room(tenant_id, n_coming)
        others[job] = None
        try:
            yield
        finally:
            del others[job]

    def coming_before(self, job: Job) -> list[Job]:
        """Jobs for the same model that are being accepted, of its tier or a higher one."""
        rank = TIERS.index(job.request.service_tier)
        others = self._entering.get(job.model, {})
        before = takewhile(lambda other: other is not job, others)
        return [other for other in before if TIERS.index(other.request.service_tier) <= rank]

    def of_tenant(self, model: str, tier: Tier, tenant_id: str) -> list[Job]:
        """What the tenant has waiting in that tier of the model's line, the oldest first."""
        return [
            ticket.item
            for ticket in self.of(model)
            if ticket.tier == tier and ticket.tenant_id == tenant_id
        ]

    def n_before(self, job: Job) -> int:
        """Jobs for the same model that wait, or came before it and are being accepted."""
        others = self._entering.get(job.model, {})
        n_coming = sum(1 for _ in takewhile(lambda other: other is not job, others))
        return len(self.of(job.model)) + n_coming

    def ticket(self, job: Job) -> JobTicket:
        """The job's ticket, were it to join its line now."""
        sequence = job.sequence or self._sequence + 1
        cost = max(1, self._lengths.cost_tokens(job))
        tier = job.request.service_tier
        return Ticket(job, tier, job.principal.tenant_id, cost, sequence)

    def join(self, job: Job) -> None:
        """Puts an accepted job at the end of its tenant's line."""
        ticket = self.ticket(job)
        if not job.sequence:
            self._sequence = job.sequence = ticket.sequence
        self.of(job.model).push(ticket, accepted=True)

    def put_back(self, job: Job) -> None:
        """Puts a job that lost its engine at the head of its tier."""
        self.of(job.model).put_back(self.ticket(job))

    def interrupted(self, model: str) -> list[Job]:
        """Those in that line that had an engine before."""
        return [ticket.item for ticket in self.of(model).returned()]

    def take(self, model: str) -> Job | None:
        """The job whose turn it is, which waits no more."""
        ticket = self._queues[model].pop()
        return None if ticket is None else ticket.item

    def leave(self, job: Job) -> bool:
        """Takes a job out of its line; False if it was not in it."""
        return self.of(job.model).remove(job.sequence)
