"""MIG geometry: which GPU instances fit on a GPU together, and where.

A GPU has 8 memory slices (positions 0 to 7) and 7 compute slices. A profile may start only at
the positions NVIDIA publishes; two instances must not share a position. Everything here is pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from airan.core.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from orchestrator.mig_table import ProfileReading

MEMORY_SLICES = 8
COMPUTE_SLICES = 7


@dataclass(frozen=True)
class MigProfile:
    """A GPU instance profile of one product, e.g. `3g.48gb`."""

    key: str
    """The family's key, the same on every product: `1g`, `1g+me`, `1g.x2`, `2g` ... `7g`."""
    name: str
    profile_id: int
    """What the driver's create call takes."""
    compute_slices: int
    size: int
    """Memory slices taken."""
    starts: tuple[int, ...]
    max_count: int
    sm_count: int
    memory_mib: int
    assumed: tuple[str, ...] = ()
    """Which of `sm_count` and `memory_mib` were published nowhere and are assumed here."""

    @property
    def is_plain(self) -> bool:
        """Neither the double-memory nor a media profile."""
        return "x2" not in self.key and "+" not in self.key


@dataclass(frozen=True, order=True)
class Placement:
    """A profile (by name) at a position; `size` memory slices from `start`."""

    start: int
    size: int
    profile: str

    def overlaps(self, other: Placement) -> bool:
        """Whether the two share a memory slice."""
        return self.start < other.start + other.size and other.start < self.start + self.size


Layout = tuple[Placement, ...]


@dataclass(frozen=True)
class MigGeometry:
    """The MIG profiles of one product."""

    gpu: str
    profiles: tuple[MigProfile, ...]
    """Smallest first."""

    @staticmethod
    def load(gpu: str) -> MigGeometry:
        """The geometry of a product such as "GH200-96GB", from the published table.

        Raises:
            NotFoundError: the table has no such product; the message lists those it has.
        """
        from orchestrator.mig_table import load

        return load(gpu)

    @staticmethod
    def from_readings(gpu: str, readings: Iterable[ProfileReading]) -> MigGeometry:
        """The geometry of a product as a driver reads it.

        Raises:
            NotFoundError: no reading is of a profile that the family has.
        """
        from orchestrator.mig_table import from_readings

        return from_readings(gpu, readings)

    @staticmethod
    def known() -> tuple[str, ...]:
        """All products of the table."""
        from orchestrator.mig_table import known

        return known()

    kind = "mig"
    positions = MEMORY_SLICES
    compute_slices = COMPUTE_SLICES
    is_resizable = False

    @property
    def slice_sms(self) -> int:
        """SMs that a compute slice has at least."""
        return self.profile("1g").sm_count

    @property
    def gain_sms(self) -> int:
        """The least gain worth a revocation: a slice."""
        return self.slice_sms

    @property
    def sm_count(self) -> int:
        """SMs of the undivided GPU."""
        return self.profile("7g").sm_count

    @property
    def memory_mib(self) -> int:
        """Memory of the undivided GPU."""
        return self.profile("7g").memory_mib

    def profile(self, name: str) -> MigProfile:
        """The profile with this name ("3g.48gb") or key ("3g").

        Raises:
            NotFoundError: this product has no such profile.
        """
        found = self._by_name.get(name)
        if found is None:
            names = ", ".join(profile.name for profile in self.profiles)
            raise NotFoundError(
                f"{self.gpu} has no MIG profile {name!r}", remedy=f"its profiles are {names}"
            )
        return found

    def placement(self, name: str, start: int) -> Placement:
        """The profile at that position.

        Raises:
            NotFoundError: no such profile.
            InvalidInputError: the profile may not start there.
        """
        profile = self.profile(name)
        if start not in profile.starts:
            raise InvalidInputError(
                "start",
                f"{profile.name} cannot start at memory slice {start} of {self.gpu}",
                remedy=f"it may start at {', '.join(map(str, profile.starts))}",
            )
        return Placement(start, profile.size, profile.name)

    def layouts(self) -> tuple[Layout, ...]:
        """Every legal layout of plain profiles, the empty one included, in a fixed order."""
        return self._layouts

    def maximal_layouts(self) -> tuple[Layout, ...]:
        """The layouts to which no plain profile can be added."""
        return self._maximal

    @cached_property
    def divided_sm_count(self) -> int:
        """The most SMs that a layout of more than one instance uses; MIG strands the others."""
        return max(self.sms(layout) for layout in self._layouts if len(layout) > 1)

    def sms(self, layout: Iterable[Placement]) -> int:
        """SMs of all placements together."""
        return sum(self.profile(placement.profile).sm_count for placement in layout)

    def place(
        self, profile_names: Sequence[str], occupied: Iterable[Placement] = ()
    ) -> Layout | None:
        """Where to put these profiles beside the occupied ones, in the order asked for.

        Of all ways, one that keeps the largest profiles placeable afterwards; None if there is
        no way. Deterministic.

        Raises:
            NotFoundError: no such profile.
            InvalidInputError: `occupied` overlaps itself or holds an illegal placement.
        """
        wanted = [self.profile(name) for name in profile_names]
        taken = tuple(sorted(occupied))
        self.check(taken)
        ways = self._ways(wanted, taken)
        return max(ways, key=lambda way: self._room_left((*taken, *way)), default=None)

    def check(self, layout: Iterable[Placement]) -> None:
        """Returns if the placements are legal together.

        Raises:
            NotFoundError: no such profile.
            InvalidInputError: an illegal start, an overlap, or too many of one profile.
        """
        seen: list[Placement] = []
        for placement in layout:
            if placement != self.placement(placement.profile, placement.start):
                raise InvalidInputError("layout", f"{placement} has the wrong size")
            for other in seen:
                if placement.overlaps(other):
                    raise InvalidInputError("layout", f"{placement} overlaps {other}")
            seen.append(placement)
            profile = self.profile(placement.profile)
            if sum(one.profile == profile.name for one in seen) > profile.max_count:
                raise InvalidInputError("layout", f"more than {profile.max_count} {profile.name}")

    def _ways(self, wanted: Sequence[MigProfile], taken: Layout) -> list[Layout]:
        if not wanted:
            return [()]
        profile, rest = wanted[0], wanted[1:]
        if sum(one.profile == profile.name for one in taken) >= profile.max_count:
            return []
        ways: list[Layout] = []
        for start in profile.starts:
            here = Placement(start, profile.size, profile.name)
            if not any(here.overlaps(other) for other in taken):
                ways += [(here, *more) for more in self._ways(rest, (*taken, here))]
        return ways

    def _room_left(self, taken: Layout) -> tuple[int, ...]:
        """How many positions each plain profile still has, the largest profile first."""
        return tuple(
            sum(
                not any(Placement(start, one.size, one.name).overlaps(other) for other in taken)
                for start in one.starts
            )
            for one in reversed(self.profiles)
            if one.is_plain
        )

    @cached_property
    def _by_name(self) -> dict[str, MigProfile]:
        names = {profile.key: profile for profile in self.profiles}
        return names | {profile.name: profile for profile in self.profiles}

    @cached_property
    def _layouts(self) -> tuple[Layout, ...]:
        plain = [profile for profile in self.profiles if profile.is_plain]

        def from_position(position: int) -> list[Layout]:
            if position >= MEMORY_SLICES:
                return [()]
            found = from_position(position + 1)
            for profile in plain:
                if position in profile.starts:
                    here = Placement(position, profile.size, profile.name)
                    found = found + [(here, *more) for more in from_position(position + here.size)]
            return found

        return tuple(sorted(from_position(0)))

    @cached_property
    def _maximal(self) -> tuple[Layout, ...]:
        return tuple(layout for layout in self._layouts if not any(self._room_left(layout)))
