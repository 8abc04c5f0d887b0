"""Weighs the ways to divide one GPU; the smaller cost wins. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from orchestrator.geometry import Geometry
from orchestrator.mig import Layout, Placement
from orchestrator.needs import Need
from orchestrator.options import Option, ranked, within
from orchestrator.pool import Partition, Target, role_sms


class Judge:
    """Weighs options for one GPU."""

    def __init__(
        self,
        geometry: Geometry,
        existing: tuple[Partition, ...],
        held: tuple[Target, ...],
        need: Need,
        *,
        ran_in_use: bool,
        gain_sms: int,
    ) -> None:
        self._geometry, self._need = geometry, need
        self._sms_of_ran = {
            part.placement: part.sm_count for part in existing if part.role == "ran"
        }
        self._role_now = {part.placement: part.role for part in existing}
        self._leased = frozenset(part.placement for part in existing if part.leased)
        self._held_ai = ranked(target.sm_count for target in held if target.role == "ai")
        self._gain_sms = gain_sms
        self._short = role_sms(held, "ran") < need.soon
        self._leaving_of: dict[Layout, tuple[set[Placement], int]] = {}
        self._protected = 0
        if ran_in_use and self._sms_of_ran:
            # The floor holds during a change too, however little the cells need just now.
            self._protected = min(max(need.now, need.floor), sum(self._sms_of_ran.values()))

    def best(self, options: Iterable[Option]) -> Option:
        """The option that is least bad by the first criterion that tells options apart."""
        left = list(options)
        criteria: tuple[Callable[[Option], object], ...] = (
            self._interruption,
            lambda option: option.is_undivided and not self._need.whole,
            lambda option: max(0, self._need.floor - option.ran_sms),
            lambda option: max(0, self._need.ai_floor - sum(option.ai_sms)),
            self._shortfall,
            self._swaps,
            lambda option: not self._is_worthwhile(option),
            lambda option: tuple(-sms for sms in self._usable(option)),
            self._revoked,
            self._changes,
            self._changed_roles,
            lambda option: (option.ran_sms, option.layout, option.roles),
        )
        for criterion in criteria:
            costs: list[object] = [criterion(option) for option in left]
            least = min(costs)  # type: ignore[type-var]
            left = [option for option, cost in zip(left, costs, strict=True) if cost == least]
        return left[0]

    def _usable(self, option: Option) -> tuple[int, ...]:
        """The AI's partitions that its ceiling leaves it, largest first."""
        return within(option.ai_sms, self._need.ai_ceiling)

    def _interruption(self, option: Option) -> int:
        """SMs the RAN lacks, of those it has and needs now, during the change or after it."""
        if not self._protected:
            return 0
        # A fixed share may be less than the RAN needs: the operator's word. Never nothing.
        kept = self._protected if self._need.slices is None else 1
        after = kept - option.ran_sms
        if self._geometry.is_resizable:
            return max(0, self._protected - self._kept_while_resized(option), after)
        leaving, meanwhile = self._leaving(option.layout)
        for one in option.ran:
            if one not in self._sms_of_ran and not any(one.overlaps(old) for old in leaving):
                meanwhile += self._geometry.profile(one.profile).sm_count
        return max(0, self._protected - meanwhile, after)

    def _kept_while_resized(self, option: Option) -> int:
        """SMs the RAN has all the time while borders move: a part stays at its end of the GPU."""
        kept = 0
        for new in option.ran:
            old = next((one for one in self._sms_of_ran if _same_end(one, new)), None)
            if old is not None:
                kept += min(old.size, new.size)
            elif not any(new.overlaps(one) for one in self._sms_of_ran):
                kept += new.size
        return kept

    def _leaving(self, layout: Layout) -> tuple[set[Placement], int]:
        """The RAN's placements that a layout has no room for, and the SMs of the others."""
        if layout not in self._leaving_of:
            leaving = self._sms_of_ran.keys() - set(layout)
            staying = sum(sms for one, sms in self._sms_of_ran.items() if one not in leaving)
            self._leaving_of[layout] = (leaving, staying)
        return self._leaving_of[layout]

    def _swaps(self, option: Option) -> bool:
        """Whether both sides change ends of a shared GPU, instead of moving the border."""
        if not self._geometry.is_resizable or not (self._leased or self._protected):
            return False
        ends = {one.start == 0: role for one, role in self._role_now.items()}
        new = {one.start == 0: role for one, role in zip(option.layout, option.roles, strict=True)}
        return {"ran", "ai"} == set(ends.values()) == set(new.values()) and ends != new

    def _revoked(self, option: Option) -> int:
        if self._geometry.is_resizable:
            stays = (any(_same_end(one, new) for new in option.ai) for one in self._leased)
            return sum(not stay for stay in stays)
        return len(self._leased - option.ai)

    def _changes(self, option: Option) -> int:
        return len(self._role_now.keys() ^ set(option.layout))

    def _changed_roles(self, option: Option) -> int:
        parts = zip(option.layout, option.roles, strict=True)
        return sum(self._role_now.get(one, role) != role for one, role in parts)

    def _shortfall(self, option: Option) -> int:
        if self._need.slices is not None:
            return abs(option.ran_slices - self._need.slices)
        grows = self._usable(option) > self._held_ai
        return max(0, (self._need.sustained if grows else self._need.soon) - option.ran_sms)

    def _is_worthwhile(self, option: Option) -> bool:
        """Whether a change that costs the AI serves the RAN, or else brings the AI enough."""
        if self._short or self._need.slices is not None or not self._costs_ai(option):
            return True
        return self._usable(option)[0] >= self._held_ai[0] + self._gain_sms

    def _costs_ai(self, option: Option) -> bool:
        if self._geometry.is_resizable:
            return bool(self._leased) and self._usable(option) != self._held_ai
        return bool(self._revoked(option))


def _same_end(one: Placement, other: Placement) -> bool:
    """Whether two parts of a shared GPU begin, or else end, where it does."""
    return (one.start == 0) == (other.start == 0)
