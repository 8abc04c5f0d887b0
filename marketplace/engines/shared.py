"""One lease shared by engines of several models, each with its own part of the SMs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from airan.core.clock import Clock
from airan.core.errors import InvalidInputError
from marketplace.engines.leases import LeaseKeeper
from marketplace.engines.parts import NOTICE_S, LentParts, PartEvent, PartLease


class SharedLease(LentParts):
    """Lends parts of the lease that `keeper` holds.

    Number 0, the site's own model, has whatever the others do not, and `least_sm` at least. The
    others, with `sm_counts` SMs each, have their part while it fits, the first first.
    """

    def __init__(
        self, keeper: LeaseKeeper, clock: Clock, sm_counts: Sequence[int], *, least_sm: int = 16
    ) -> None:
        if least_sm < 1 or any(count < 1 for count in sm_counts):
            raise InvalidInputError("sm_count", "must be 1 or more")
        self._least = least_sm
        self._sm_counts = (0, *sm_counts)
        super().__init__(keeper, clock, len(self._sm_counts))

    def lend(self, number: int, holder: str, pid: int) -> PartLease:
        """See LentParts.lend; number 0 has the rest."""
        part = super().lend(number, holder, pid)
        self._resize_first()
        return part

    def _share(self) -> None:
        """And gives number 0 the rest."""
        used = self._least
        for number in range(1, len(self._sm_counts)):
            used += self._sm_counts[number] if number in self._parts else 0
            if used > self.sm_count and number in self._parts:
                self._take_back(number, self._clock.now_s() + NOTICE_S)
        self._resize_first()
        for number, source in enumerate(self.sources):
            if number not in self._parts and self._sms_for(number):
                source.send(PartEvent("offered", None, free_ai_partitions=1))

    def _sms_for(self, number: int) -> int:
        if number == 0:
            return max(0, self._rest())
        fits = self._least + self._others() + self._sm_counts[number] <= self.sm_count
        return self._sm_counts[number] if fits else 0

    def _others(self) -> int:
        return sum(part.sm_count for number, part in self._parts.items() if number)

    def _rest(self) -> int:
        return self.sm_count - self._others()

    def _resize_first(self) -> None:
        part, rest = self._parts.get(0), self._rest()
        if part is not None and part.state == "active" and 0 < rest != part.sm_count:
            self._parts[0] = part = replace(part, sm_count=rest)
            self.sources[0].send(PartEvent("resized", part))
