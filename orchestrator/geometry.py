"""What the planner needs to know of a GPU, however it is divided.

`orchestrator.mig.MigGeometry` and `orchestrator.shares.ShareGeometry` are the two that there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from orchestrator.mig import Layout, Placement


class Profile(Protocol):
    """A part that a GPU can be divided into."""

    @property
    def key(self) -> str:
        """The family's key, the same on every product; `7g` is an undivided MIG GPU."""
        ...

    @property
    def name(self) -> str:
        """E.g. `3g.48gb` or `green.64`."""
        ...

    @property
    def compute_slices(self) -> int:
        """In the geometry's `compute_slices`."""
        ...

    @property
    def size(self) -> int:
        """Positions taken."""
        ...

    @property
    def sm_count(self) -> int:
        """SMs."""
        ...

    @property
    def memory_mib(self) -> int:
        """Memory."""
        ...


class Geometry(Protocol):
    """The ways to divide one GPU."""

    def __hash__(self) -> int: ...

    @property
    def gpu(self) -> str:
        """Product name."""
        ...

    @property
    def kind(self) -> str:
        """Kind of its partitions: `mig`, `mps`, `green` or `whole`."""
        ...

    @property
    def sm_count(self) -> int:
        """SMs of the undivided GPU."""
        ...

    @property
    def memory_mib(self) -> int:
        """Memory of the undivided GPU."""
        ...

    @property
    def divided_sm_count(self) -> int:
        """The most SMs that parts of a divided GPU have together."""
        ...

    @property
    def positions(self) -> int:
        """Length of the drawing in which placements lie."""
        ...

    @property
    def compute_slices(self) -> int:
        """What a fixed share is counted in."""
        ...

    @property
    def slice_sms(self) -> int:
        """SMs that a compute slice has at least."""
        ...

    @property
    def gain_sms(self) -> int:
        """The least gain of the AI worth a revocation."""
        ...

    @property
    def is_resizable(self) -> bool:
        """Whether a part can grow and shrink under the processes that use it."""
        ...

    def profile(self, name: str) -> Profile:
        """The part with this name. Raises NotFoundError."""
        ...

    def placement(self, name: str, start: int) -> Placement:
        """The part at that position. Raises NotFoundError, InvalidInputError."""
        ...

    def check(self, layout: Iterable[Placement]) -> None:
        """Raises InvalidInputError unless the placements are legal together."""
        ...

    def layouts(self) -> tuple[Layout, ...]:
        """Every legal layout, in a fixed order."""
        ...

    def maximal_layouts(self) -> tuple[Layout, ...]:
        """The layouts to which nothing can be added."""
        ...

    def sms(self, layout: Iterable[Placement]) -> int:
        """SMs of all placements together."""
        ...

    def place(
        self, profile_names: Sequence[str], occupied: Iterable[Placement] = ()
    ) -> Layout | None:
        """Where to put these parts beside the occupied ones; None if there is no way."""
        ...
