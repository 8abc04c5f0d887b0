"""One lease shared by engines of several models, each with its own part of the SMs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from airan.core.clock import Clock
from airan.core.errors import CapacityError, InvalidInputError, NotFoundError
from marketplace.engines.divided import PartEvent, PartLease, PartSource
from marketplace.engines.leases import Lease, LeaseKeeper

log = logging.getLogger(__name__)

_MARGIN_S = 0.1
"""The parts are to be back so long before the lease itself has to be."""
_NOTICE_S = 0.4
"""How long a model may take to stop when the lease has become too small for it."""


class SharedLease:
    """Lends parts of the lease that `keeper` holds.

    Number 0, the site's own model, has whatever the others do not, and `least_sm` at least. The
    others, with `sm_counts` SMs each, have their part while it fits, the first first.
    """

    def __init__(
        self, keeper: LeaseKeeper, clock: Clock, sm_counts: Sequence[int], *, least_sm: int = 16
    ) -> None:
        if least_sm < 1 or any(count < 1 for count in sm_counts):
            raise InvalidInputError("sm_count", "must be 1 or more")
        self.keeper = keeper
        self._clock = clock
        self._least = least_sm
        self._sm_counts = (0, *sm_counts)
        self._parts: dict[int, PartLease] = {}
        self._busy: dict[int, float] = {}
        self._changed = asyncio.Event()
        self._n_granted = 0
        self.sources = [PartSource(self, number) for number in range(len(self._sm_counts))]
        keeper.on_granted = self._granted
        keeper.on_resized = self._granted
        keeper.on_revoked = self._revoked

    @property
    def sm_count(self) -> int:
        """SMs of the lease; 0 without one."""
        lease = self.keeper.lease
        return 0 if lease is None else lease.sm_count

    @property
    def sm_lent(self) -> int:
        """SMs of all parts that are lent now."""
        return sum(part.sm_count for part in self._parts.values())

    async def _granted(self, _: Lease) -> None:
        self._share()

    def _share(self) -> None:
        """Takes back what no longer fits, gives number 0 the rest, and offers what is free."""
        used = self._least
        for number in range(1, len(self._sm_counts)):
            used += self._sm_counts[number] if number in self._parts else 0
            if used > self.sm_count and number in self._parts:
                self._take_back(number, self._clock.now_s() + _NOTICE_S)
        self._resize_first()
        for number, source in enumerate(self.sources):
            if number not in self._parts and self._fits(number):
                source.send(PartEvent("offered", None, free_ai_partitions=1))

    def _fits(self, number: int) -> bool:
        if number == 0:
            return self._rest() > 0
        return self._least + self._others() + self._sm_counts[number] <= self.sm_count

    def _others(self) -> int:
        return sum(part.sm_count for number, part in self._parts.items() if number)

    def _rest(self) -> int:
        return self.sm_count - self._others()

    def _resize_first(self) -> None:
        part, rest = self._parts.get(0), self._rest()
        if part is not None and part.state == "active" and 0 < rest != part.sm_count:
            self._parts[0] = part = replace(part, sm_count=rest)
            self.sources[0].send(PartEvent("resized", part))

    def _take_back(self, number: int, deadline_s: float) -> None:
        self._parts[number] = part = replace(self._parts[number], state="revoking")
        if self.sources[number].is_watched:
            self.sources[number].send(PartEvent("revoked", part, deadline_s))
        else:
            # Nobody is there any more who could give it back.
            del self._parts[number]

    async def _revoked(self, deadline_s: float) -> None:
        """Returns when all parts are back, or at the deadline: the engines stop by then."""
        part_deadline_s = deadline_s - _MARGIN_S if deadline_s else 0.0
        for number in list(self._parts):
            self._take_back(number, part_deadline_s)
        while self._parts:
            self._changed.clear()
            left_s = deadline_s - self._clock.now_s() if deadline_s else None
            try:
                async with asyncio.timeout(left_s):
                    await self._changed.wait()
            except TimeoutError:
                return

    def lend(self, number: int, holder: str, pid: int) -> PartLease:
        """Gives the engine its part.

        Raises:
            CapacityError: the lease does not carry it now.
        """
        lease = self.keeper.lease
        if lease is None or number in self._parts or not self._fits(number):
            raise CapacityError(f"the lease has no part for engine {number} now")
        self._n_granted += 1
        sm_count = self._sm_counts[number] or self._rest()
        part = PartLease(f"{lease.id}/{self._n_granted}", holder, sm_count, "active", pid)
        self._parts[number] = part
        self._resize_first()
        return part

    def parts_of(self, number: int) -> list[PartLease]:
        """The engine's part, if it has one."""
        return [self._parts[number]] if number in self._parts else []

    def take(self, number: int, part_id: str) -> PartLease:
        """The engine gives its part back.

        Raises:
            NotFoundError: it does not have it.
        """
        part = self._known(number, part_id)
        del self._parts[number]
        self._busy.pop(number, None)
        self._changed.set()
        if self.keeper.lease is not None:
            self._share()
        return replace(part, state="ended")

    async def report(self, number: int, part_id: str, interval_s: float, busy_s: float) -> None:
        """Passes on how busy the parts are together, weighted by their SMs.

        Raises:
            NotFoundError: the engine does not have that part.
        """
        self._known(number, part_id)
        self._busy[number] = busy_s / interval_s if interval_s > 0 else 0.0
        if number != min(self._parts) or not self.sm_count:
            return
        sms = {one: part.sm_count for one, part in self._parts.items()}
        busy = sum(share * sms.get(one, 0) for one, share in self._busy.items())
        await self.keeper.report_use(interval_s, min(1.0, busy / self.sm_count) * interval_s)

    def _known(self, number: int, part_id: str) -> PartLease:
        part = self._parts.get(number)
        if part is None or part.id != part_id:
            raise NotFoundError(f"engine {number} does not have the part {part_id}")
        return part
