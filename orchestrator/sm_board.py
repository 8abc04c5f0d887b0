"""Which gear a GPU is in: a page of memory shared by the fast path, the slots and an engine.

A gear divides one GPU's multiprocessors between the RAN and the AI. Both sides hold their part of
every gear ready; the board says which one counts, and each side says when it has left the last one.
A word is written by one process only and read whole by the others, without locks; the engine's
process needs nothing but this module and the standard library.
"""

from __future__ import annotations

import mmap
import os
import time
from dataclasses import dataclass
from pathlib import Path

from airan.core.errors import InvalidInputError, NotFoundError

NO_ORDER = 0
"""The generation that a side has acknowledged which follows no orders, or not yet."""
_MAGIC = 0x31_4453_4E41_5241
"""Says that the file is a board of this form."""
_MAX_GEARS = 16
_MAX_SMS = 0xFFFF
_MAX_TOKENS = 0xFF_FFFF
_N_BYTES = 4096
_ORDER, _ORDERED_NS = 2, 3
_ACKS, _ACKED_NS = {"ran": 4, "ai": 6}, {"ran": 5, "ai": 7}
_STEP = 8
_FIRST_GEAR = 16


@dataclass(frozen=True)
class Gear:
    """A division of a GPU.

    Attributes:
        ran_sms: multiprocessors of the slots.
        ai_sms: those of the engine, of what the slots leave; 0: it makes no steps.
    """

    ran_sms: int
    ai_sms: int

    def __str__(self) -> str:
        return f"{self.ran_sms}+{self.ai_sms}"


@dataclass(frozen=True)
class GearOrder:
    """What the fast path wants.

    Attributes:
        generation: grows with every order.
        gear: its index.
        step_tokens: the most of one step of the engine; 0: as many as it likes.
    """

    generation: int
    gear: int
    step_tokens: int


@dataclass(frozen=True)
class Beat:
    """The engine's last step.

    Attributes:
        n_steps: steps so far; wraps at 2**16.
        step_us: how long it was on the GPU.
        tokens: that it worked on.
        gear: that it ran in.
    """

    n_steps: int
    step_us: int
    tokens: int
    gear: int


class SmBoard:
    """The board of one GPU.

    Attributes:
        path: of its file.
        gears: by the index that orders name.
    """

    def __init__(self, path: Path, memory: mmap.mmap, gears: tuple[Gear, ...]) -> None:
        """For `create` and `open`."""
        self.path = path
        self.gears = gears
        self._memory = memory
        self._words = memoryview(memory).cast("Q")

    @classmethod
    def create(cls, path: Path, gears: tuple[Gear, ...]) -> SmBoard:
        """Makes the board anew, in its last gear; who has an older one open keeps that.

        Raises:
            InvalidInputError: no gears, too many, one twice, or beyond 65,535 SMs.
        """
        _check(gears)
        new = path.with_name(f".{path.name}.new")
        new.unlink(missing_ok=True)
        file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.ftruncate(file, _N_BYTES)
            memory = mmap.mmap(file, _N_BYTES)
        finally:
            os.close(file)
        board = cls(path, memory, gears)
        for at, gear in enumerate(gears):
            board._words[_FIRST_GEAR + at] = gear.ran_sms << 16 | gear.ai_sms
        board._words[1] = len(gears)
        board._words[0] = _MAGIC
        board.order(len(gears) - 1, 0)
        new.rename(path)
        return board

    @classmethod
    def open(cls, path: Path) -> SmBoard:
        """The board that is there.

        Raises:
            NotFoundError: there is none.
            InvalidInputError: the file is no board.
        """
        try:
            file = os.open(path, os.O_RDWR)
        except OSError as error:
            raise NotFoundError(
                f"there is no board at {path}: {error.strerror}", remedy="start the slots first"
            ) from error
        try:
            if os.fstat(file).st_size != _N_BYTES:
                raise InvalidInputError("board", f"{path} is no board of multiprocessors")
            memory = mmap.mmap(file, _N_BYTES)
        finally:
            os.close(file)
        words = memoryview(memory).cast("Q")
        magic, n_gears = words[0], words[1]
        if magic != _MAGIC or not 1 <= n_gears <= _MAX_GEARS:
            raise InvalidInputError("board", f"{path} is no board of multiprocessors")
        raw = [words[_FIRST_GEAR + at] for at in range(n_gears)]
        return cls(path, memory, tuple(Gear(one >> 16, one & _MAX_SMS) for one in raw))

    @property
    def current(self) -> GearOrder:
        """The newest order."""
        word = self._words[_ORDER]
        return GearOrder(word >> 32, word >> 24 & 0xFF, word & _MAX_TOKENS)

    @property
    def ordered_ns(self) -> int:
        """When it was given, on the host's monotonic clock."""
        return self._words[_ORDERED_NS]

    def order(self, gear: int, step_tokens: int = 0) -> GearOrder:
        """Orders a gear, unless it is ordered already; only one process may.

        Raises:
            InvalidInputError: there is no such gear, or the tokens are out of range.
        """
        if not 0 <= gear < len(self.gears):
            raise InvalidInputError("gear", f"must lie in [0, {len(self.gears)}), got {gear}")
        if not 0 <= step_tokens <= _MAX_TOKENS:
            raise InvalidInputError("step_tokens", f"must lie in [0, 2**24), got {step_tokens}")
        last = self.current
        if last.generation and (last.gear, last.step_tokens) == (gear, step_tokens):
            return last
        generation = last.generation + 1 & 0xFFFF_FFFF
        self._words[_ORDERED_NS] = time.monotonic_ns()
        self._words[_ORDER] = generation << 32 | gear << 24 | step_tokens
        return self.current

    def acknowledge(self, side: str, generation: int) -> None:
        """Says that a side, "ran" or "ai", is in the gear of that order, and out of the last; with
        NO_ORDER that it follows none."""
        self._words[_ACKED_NS[side]] = time.monotonic_ns()
        self._words[_ACKS[side]] = generation

    def acknowledged(self, side: str) -> int:
        """The order that a side has acknowledged last."""
        return self._words[_ACKS[side]]

    def acknowledged_ns(self, side: str) -> int:
        """When it did, on the host's monotonic clock."""
        return self._words[_ACKED_NS[side]]

    def beat(self, step_us: int, tokens: int, gear: int) -> None:
        """Says that the engine has made a step in that gear."""
        n_steps = (self._words[_STEP] >> 48) + 1 & 0xFFFF
        long_us, most = min(step_us, 0xFF_FFFF), min(tokens, 0xFFFF)
        self._words[_STEP] = n_steps << 48 | gear << 40 | long_us << 16 | most

    @property
    def last_beat(self) -> Beat:
        """The engine's last step."""
        word = self._words[_STEP]
        return Beat(word >> 48, word >> 16 & 0xFF_FFFF, word & 0xFFFF, word >> 40 & 0xFF)

    def close(self) -> None:
        """Lets the memory go; the file stays."""
        self._words.release()
        self._memory.close()


def _check(gears: tuple[Gear, ...]) -> None:
    if not 1 <= len(gears) <= _MAX_GEARS:
        raise InvalidInputError("gears", f"must be 1 to {_MAX_GEARS}, got {len(gears)}")
    for gear in gears:
        if not (1 <= gear.ran_sms <= _MAX_SMS and 0 <= gear.ai_sms <= _MAX_SMS):
            raise InvalidInputError("gears", f"{gear} is out of range")
    if len(set(gears)) < len(gears):
        raise InvalidInputError("gears", "one of them stands twice")
