"""GPUs divided without MIG: one part for each side, in steps of SMs. Pure.

`mps` limits each process's share of SMs, `green` gives each side a green context of its own, and
`whole` gives the undivided GPU to one side. The first part starts at SM 0, the other takes what
is left, so that no SM is stranded. Memory is limited in proportion to the SMs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from airan.core.errors import InvalidInputError, NotFoundError
from orchestrator.mig import Layout, Placement

SHARE_KINDS = ("whole", "mps", "green")


@dataclass(frozen=True)
class ShareProfile:
    """A part of so many SMs, e.g. `green.64`."""

    key: str
    name: str
    compute_slices: int
    """Its SMs: on a shared GPU each counts as a slice."""
    size: int
    """The same, as the length of its placement."""
    sm_count: int
    memory_mib: int


@dataclass(frozen=True)
class ShareGeometry:
    """How one GPU may be divided without MIG; positions and sizes of placements are SMs.

    Raises:
        InvalidInputError: an unknown kind, or steps that do not fit.
    """

    gpu: str
    kind: str
    """`whole`, `mps` or `green`."""
    sm_count: int
    memory_mib: int
    step_sms: int = 8
    """The first part is a multiple of it: the driver splits SMs off in such groups."""

    def __post_init__(self) -> None:
        if self.kind not in SHARE_KINDS:
            raise InvalidInputError(
                "kind", f"unknown kind {self.kind!r}", remedy="use whole, mps, green"
            )
        if not 1 <= self.step_sms <= self.sm_count:
            raise InvalidInputError("step_sms", f"must lie in [1, {self.sm_count}]")

    @property
    def divided_sm_count(self) -> int:
        """All SMs: none is stranded."""
        return self.sm_count

    @property
    def positions(self) -> int:
        """Length of the drawing of its partitions."""
        return self.sm_count

    @property
    def compute_slices(self) -> int:
        """What a static share is counted in: SMs."""
        return self.sm_count

    @property
    def slice_sms(self) -> int:
        """One: its slices are SMs."""
        return 1

    @property
    def gain_sms(self) -> int:
        """The least gain worth a revocation."""
        return 2 * self.step_sms

    @property
    def is_resizable(self) -> bool:
        """Whether a part grows and shrinks under running processes."""
        return self.kind != "whole"

    def profile(self, name: str) -> ShareProfile:
        """The part with this name.

        Raises:
            NotFoundError: this GPU has no such part.
        """
        kind, _, size = name.partition(".")
        if kind != self.kind or not size.isdecimal() or not 1 <= int(size) <= self.sm_count:
            raise NotFoundError(
                f"{self.gpu}, shared by {self.kind}, has no part {name!r}",
                remedy=f"its parts are {self.kind}.{self.step_sms} to {self.kind}.{self.sm_count}",
            )
        sms = int(size)
        memory_mib = self.memory_mib * sms // self.sm_count
        return ShareProfile(name, name, sms, sms, sms, memory_mib)

    def placement(self, name: str, start: int) -> Placement:
        """That part at that SM.

        Raises:
            NotFoundError: no such part.
            InvalidInputError: it cannot start there.
        """
        found = Placement(start, self.profile(name).size, name)
        if not self._fits(found):
            raise InvalidInputError(
                "start",
                f"{name} cannot start at SM {start} of {self.gpu}",
                remedy=f"parts start at 0, or at a multiple of {self.step_sms} and end at the end",
            )
        return found

    def check(self, layout: Iterable[Placement]) -> None:
        """Returns if the placements are legal together.

        Raises:
            NotFoundError: no such part.
            InvalidInputError: an illegal start or an overlap.
        """
        seen: list[Placement] = []
        for one in layout:
            if one != self.placement(one.profile, one.start):
                raise InvalidInputError("layout", f"{one} has the wrong size")
            for other in seen:
                if one.overlaps(other):
                    raise InvalidInputError("layout", f"{one} overlaps {other}")
            seen.append(one)

    def sms(self, layout: Iterable[Placement]) -> int:
        """SMs of all placements together."""
        return sum(one.size for one in layout)

    def maximal_layouts(self) -> tuple[Layout, ...]:
        """Every way to divide the GPU in two, and the undivided GPU."""
        return self._maximal

    def layouts(self) -> tuple[Layout, ...]:
        """All legal layouts, the empty one included, in a fixed order."""
        parts = {one for layout in self._maximal for one in layout}
        return tuple(sorted({(), *((one,) for one in parts), *self._maximal}))

    def place(
        self, profile_names: Sequence[str], occupied: Iterable[Placement] = ()
    ) -> Layout | None:
        """Where to put these parts beside the occupied ones; None if there is no way.

        Raises:
            NotFoundError: no such part.
            InvalidInputError: `occupied` is not legal.
        """
        taken = tuple(sorted(occupied))
        self.check(taken)
        found: list[Placement] = []
        for name in profile_names:
            size = self.profile(name).size
            ways = (Placement(start, size, name) for start in (0, self.sm_count - size))
            free = (
                one
                for one in ways
                if self._fits(one) and not any(one.overlaps(other) for other in (*taken, *found))
            )
            here = next(free, None)
            if here is None:
                return None
            found.append(here)
        return tuple(found)

    def _fits(self, one: Placement) -> bool:
        if one.start == 0:
            return one.size % self.step_sms == 0 or one.size == self.sm_count
        return one.start % self.step_sms == 0 and one.start + one.size == self.sm_count

    @cached_property
    def _maximal(self) -> tuple[Layout, ...]:
        step = self.sm_count if self.kind == "whole" else self.step_sms
        cuts = range(step, self.sm_count, step)
        divided = tuple((self._part(0, cut), self._part(cut, self.sm_count)) for cut in cuts)
        return (*divided, (self._part(0, self.sm_count),))

    def _part(self, start: int, end: int) -> Placement:
        return Placement(start, end - start, f"{self.kind}.{end - start}")
