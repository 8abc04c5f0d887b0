"""One lease carried by several replicas of an engine, each with its own part of the SMs."""

from __future__ import annotations

import logging

from airan.core.clock import Clock
from airan.core.errors import InvalidInputError
from marketplace.engines.leases import Lease, LeaseKeeper
from marketplace.engines.parts import NOTICE_S, LentParts, PartEvent, PartSource

log = logging.getLogger(__name__)


class DividedLease(LentParts):
    """Lends parts of `sm_per_replica` SMs of the lease that `keeper` holds.

    As many parts are lent as are wanted, and never more than the lease carries: a part is lent
    only while the SMs of all parts together, those being taken back included, fit into the lease.
    """

    def __init__(
        self,
        keeper: LeaseKeeper,
        clock: Clock,
        *,
        n_replicas: int,
        sm_per_replica: int,
    ) -> None:
        if n_replicas < 1 or sm_per_replica < 1:
            raise InvalidInputError("n_replicas", "and sm_per_replica must be 1 or more")
        super().__init__(keeper, clock, n_replicas)
        self.sm_per_replica = sm_per_replica
        self.wanted = 1

    @property
    def replicas(self) -> list[PartSource]:
        """What each replica takes for the control plane."""
        return self.sources

    @property
    def n_active(self) -> int:
        """Replicas that have their part."""
        return len(self._parts)

    def want(self, n_replicas: int) -> None:
        """From now on so many replicas are to run, if the lease carries them.

        Raises:
            InvalidInputError: there are not so many.
        """
        if not 0 <= n_replicas <= len(self.sources):
            raise InvalidInputError(
                "wanted", f"must be between 0 and {len(self.sources)}, got {n_replicas}"
            )
        self.wanted = n_replicas
        self._share()

    def _share(self) -> None:
        """From the last replica on."""
        n_carried = min(self.wanted, self.sm_count // self.sm_per_replica)
        for number in [number for number in self._parts if number >= n_carried]:
            self._take_back(number, self._clock.now_s() + NOTICE_S)
        for source in self.sources[:n_carried]:
            source.send(PartEvent("offered", None, free_ai_partitions=1))

    def _sms_for(self, number: int) -> int:
        fits = self.sm_lent + self.sm_per_replica <= self.sm_count
        return self.sm_per_replica if number < self.wanted and fits else 0

    async def _taken_up(self, lease: Lease) -> None:
        if lease.sm_count < self.sm_per_replica:
            text = "lease %s has %d SMs, too few for a replica, which takes %d"
            log.warning(text, lease.id, lease.sm_count, self.sm_per_replica)
        await super()._taken_up(lease)
