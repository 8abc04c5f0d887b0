"""The last slots of Layer 1, one record each, in a file that other processes read meanwhile.

A ring: what is older than its length is written over. It outlives Layer 1's process, whose
successor goes on with the count, so that a gap between two processes is a gap in the times. Times
are the host's monotonic clock, which all processes share.
"""

from __future__ import annotations

import mmap
import os
import struct
from enum import IntEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError, NotFoundError

_MAGIC = 0x4A_534C_4F54_5331
"""Says that the file is a journal of this form."""
_HEADER = struct.Struct("=QQQQ")
_COUNT = struct.Struct("=Q")
_COUNT_AT, _WORKER_AT = 16, 24
_FIRST_AT = 64
_RECORD = struct.Struct("=dfBBH")
RECORD = np.dtype(
    [("end_s", "f8"), ("latency_us", "f4"), ("channel", "u1"), ("fate", "u1"), ("gear", "u2")]
)
CHANNELS = ("pusch", "pdsch")


class Fate(IntEnum):
    """How a slot fared."""

    ON_TIME = 0
    LATE = 1
    DROPPED = 2
    """Lost, or never begun."""
    IDLE = 3
    """Nothing was granted in it."""


class SlotJournal:
    """The journal, as the process that runs the slots writes it."""

    def __init__(self, path: Path, n_slots: int) -> None:
        """Goes on with the file that is there, if it has as many places, or makes one.

        Raises:
            InvalidInputError: fewer than one place.
        """
        if n_slots < 1:
            raise InvalidInputError("n_slots", f"must be at least 1, got {n_slots}")
        self._n_slots = n_slots
        n_bytes = _FIRST_AT + n_slots * _RECORD.size
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(file, n_bytes)
            self._memory = mmap.mmap(file, n_bytes)
        finally:
            os.close(file)
        for page in range(0, n_bytes, mmap.PAGESIZE):
            # The kernel fetches each page now, and not between two slots.
            self._memory[page] = self._memory[page]
        magic, places, count, _ = _HEADER.unpack_from(self._memory)
        self._count = count if (magic, places) == (_MAGIC, n_slots) else 0
        _HEADER.pack_into(self._memory, 0, _MAGIC, n_slots, self._count, 0)

    def add(self, end_s: float, channel: str, fate: Fate, latency_us: float, gear: int = 0) -> None:
        """Writes a slot: when its end was seen, and how long after it was due (NaN: never)."""
        at = _FIRST_AT + self._count % self._n_slots * _RECORD.size
        number = CHANNELS.index(channel)
        _RECORD.pack_into(self._memory, at, end_s, latency_us, number, int(fate), gear)
        self._count += 1
        _COUNT.pack_into(self._memory, _COUNT_AT, self._count)

    def name_worker(self, pid: int) -> None:
        """Says which process runs the slots now."""
        _COUNT.pack_into(self._memory, _WORKER_AT, pid)

    def close(self) -> None:
        """Lets the memory go; the file stays."""
        self._memory.close()


class JournalReader:
    """Another process's journal, read from the slot on that is next when it is opened."""

    def __init__(self, path: Path) -> None:
        """Opens it.

        Raises:
            NotFoundError: there is none.
            InvalidInputError: the file is no journal.
        """
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise NotFoundError(
                f"there is no journal of slots at {path}: {error.strerror}",
                remedy="set ran.slot_records and start the site",
            ) from error
        try:
            n_bytes = os.fstat(file).st_size
            if n_bytes <= _FIRST_AT:
                raise InvalidInputError("journal", f"{path} is no journal of slots")
            self._memory = mmap.mmap(file, n_bytes, prot=mmap.PROT_READ)
        finally:
            os.close(file)
        magic, self._n_slots, self._next, _ = _HEADER.unpack_from(self._memory)
        if magic != _MAGIC or n_bytes != _FIRST_AT + self._n_slots * _RECORD.size:
            self._memory.close()
            raise InvalidInputError("journal", f"{path} is no journal of slots")
        self.n_overwritten = 0
        """Slots that were written over before they were read."""

    @property
    def worker_pid(self) -> int:
        """The process that runs the slots; 0: it is not known."""
        return int(_COUNT.unpack_from(self._memory, _WORKER_AT)[0])

    def take(self) -> npt.NDArray[np.void]:
        """The slots since the last call, oldest first: RECORD[slot]."""
        count = int(_COUNT.unpack_from(self._memory, _COUNT_AT)[0])
        # A place that is written over while it is copied is not to be among those that count.
        first = max(self._next, count - self._n_slots)
        copied: npt.NDArray[np.void] = np.frombuffer(self._memory[_FIRST_AT:], RECORD)
        later = int(_COUNT.unpack_from(self._memory, _COUNT_AT)[0])
        first = max(first, min(count, later + 1 - self._n_slots))
        self.n_overwritten += first - self._next
        self._next = count
        taken: npt.NDArray[np.void] = copied[np.arange(first, count) % self._n_slots]
        return taken

    def close(self) -> None:
        """Lets the memory go."""
        self._memory.close()
