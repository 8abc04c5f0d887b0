"""How a process and its worker tell each other of slots: by counts in memory that both see.

Each side only ever writes its own counts, which only grow; the other side watches them. A watched
word answers in a microsecond, where waking a process takes fifty.
"""

from __future__ import annotations

import mmap

import numpy as np
import numpy.typing as npt

_N_PLACES = 8
_STARTS, _FIRST_SLOT = 0, 8
_DONE, _FIRST_TIME = 32, 40


class Doorbell:
    """The counts, in the first page of the shared memory."""

    N_BYTES = mmap.PAGESIZE

    def __init__(self, memory: npt.NDArray[np.uint8]) -> None:
        """`memory` is uint8[N_BYTES], zero at first."""
        self._counts = memory.view(np.int64)
        self._times = memory.view(np.float64)

    def start(self, side: int, n_messages: int, gear: int = 0) -> None:
        """Tells the worker to start a slot, after `n_messages` messages on the connection."""
        number = int(self._counts[_STARTS])
        at = _FIRST_SLOT + 3 * (number % _N_PLACES)
        self._counts[at], self._counts[at + 1], self._counts[at + 2] = side, n_messages, gear
        self._counts[_STARTS] = number + 1

    @property
    def starts(self) -> int:
        """Slots to be started so far."""
        return int(self._counts[_STARTS])

    def started(self, number: int) -> tuple[int, int, int]:
        """Returns the side of the `number`-th slot, of the last few, the messages before it, and
        its gear."""
        at = _FIRST_SLOT + 3 * (number % _N_PLACES)
        return int(self._counts[at]), int(self._counts[at + 1]), int(self._counts[at + 2])

    def finish(self, kernels_us: float, with_copies_us: float) -> None:
        """Tells the other process that one more slot, the oldest, is done."""
        number = int(self._counts[_DONE])
        at = _FIRST_TIME + 2 * (number % _N_PLACES)
        self._times[at], self._times[at + 1] = kernels_us, with_copies_us
        self._counts[_DONE] = number + 1

    @property
    def done(self) -> int:
        """Slots done so far."""
        return int(self._counts[_DONE])

    def times(self, number: int) -> tuple[float, float]:
        """Returns what `finish` said of the `number`-th slot, of the last few."""
        at = _FIRST_TIME + 2 * (number % _N_PLACES)
        return float(self._times[at]), float(self._times[at + 1])
