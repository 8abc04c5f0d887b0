"""Work that is insisted on and could not be stored yet: kept in its order, and tried again."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from typing import Any, Literal

import sqlalchemy as sa

from marketplace.store.connect import hurried

_AGAIN_S = 0.2
"""How often a server that is away is tried, and how soon one first that was too busy."""
_LONGEST_S = 2.0
"""Each time the server is too busy again, the pause is twice as long, up to this."""
_MOST_STUCK = 4
"""Tenants in one round whose work may wait for a lock in vain; the others' turn is the next."""
_BUSY = ("40", "53", "55P03", "57014")
"""SQLSTATEs of what passes by itself: a transaction that PostgreSQL rolled back because of others
(deadlock, serialisation), resources that ran out, a lock that took too long, a cancelled query."""

Trouble = Literal["away", "cut", "busy"]
"""There is no server; it has ended the connection within the work, so that nobody knows whether
that is done; it gave the work up."""


class Piece:
    """One piece of work, and who waits for it."""

    def __init__(
        self,
        work: Callable[[], Any],
        again: Callable[[], Any] | None = None,
        whose: str | None = None,
    ) -> None:
        """`again`, for what is insisted on: does it where nobody knows whether it is done.
        `whose`: what is insisted on of the same one stays in its order."""
        self.future: Future[Any] = Future()
        self.error: BaseException | None = None
        self.whose = whose
        self._work, self._again = work, again
        self._cancelled = False
        self._result: Any = None

    def run(self) -> None:
        """Does the work, or does it again: then the last outcome counts."""
        if not self.future.running():
            self._cancelled = not self.future.set_running_or_notify_cancel()
        if self._cancelled:
            return
        work = self._work if self.error is None or self._again is None else self._again
        self._result = self.error = None
        try:
            self._result = work()
        except BaseException as error:  # it belongs to whoever waits, as in an Executor
            self.error = error

    def fail(self, error: BaseException | None) -> None:
        """It is not kept, whatever became of it."""
        self.error = error

    def tell(self) -> None:
        """Tells whoever waits."""
        if self._cancelled:
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self._result)


class Held:
    """The pieces of one store's thread, which alone uses it.

    While the server is away nothing else can be done either. While it is only too busy for one
    tenant's work, a row of whose somebody keeps locked, all others' goes on: what is tried again
    waits for a lock for a quarter of a second only.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._is_server = engine.dialect.name != "sqlite"
        self._pieces: list[Piece] = []
        self._away: BaseException | None = None
        self._pause_s = 0.0
        self._due_s = 0.0

    @property
    def due_in_s(self) -> float | None:
        """Seconds until something is to be tried again; None: nothing is held."""
        return max(0.0, self._due_s - time.monotonic()) if self._pieces else None

    def before(self, piece: Piece) -> BaseException | None:
        """Why a new piece cannot be tried now: the error of what has to be done before it."""
        if self._away is not None or piece.whose is None:
            return self._away
        return next((one.error for one in self._pieces if one.whose == piece.whose), None)

    def run(self, piece: Piece) -> None:
        """Does a new piece. While something is held it waits for no lock for long either: work of
        the same tenant that is not insisted on would hold up all others' for 5 s each time."""
        with hurried() if self._pieces else nullcontext():
            piece.run()

    def take(self, piece: Piece) -> bool:
        """Keeps a piece that failed for a while only; False: it was not insisted on, was done, or
        will always fail."""
        trouble = self._trouble(piece.error)
        if piece.whose is None or trouble is None:
            return False
        if trouble == "away":
            self._away = piece.error
        if trouble == "cut":
            # Only a new connection shows whether the server is away.
            self._due_s = 0.0
        elif not self._pieces:
            self._put_off(_AGAIN_S)
        self._pieces.append(piece)
        return True

    def try_again(self, *, at_once: bool = False) -> list[Piece]:
        """Does what is due, as far as the server lets us; returns what is held no longer."""
        if not self._pieces or (not at_once and time.monotonic() < self._due_s):
            return []
        self._away = None
        ended, left, stuck = list[Piece](), list[Piece](), set[str | None]()
        for piece in self._pieces:
            is_next = piece.whose not in stuck and len(stuck) < _MOST_STUCK
            if is_next and self._away is None and self._is_done(piece):
                ended.append(piece)
                continue
            if is_next and self._away is None:
                stuck.add(piece.whose)
                self._away = piece.error if self._trouble(piece.error) == "away" else None
            left.append(piece)
        # Those whose turn has not come go first the next time.
        self._pieces = sorted(left, key=lambda one: one.whose in stuck)
        away = self._away is not None
        self._put_off(_AGAIN_S if away else _longer(self._pause_s))
        return ended

    def let_go(self) -> list[Piece]:
        """Holds nothing any more: returns what was held, with the errors that it had."""
        pieces, self._pieces, self._away = self._pieces, [], None
        return pieces

    def _put_off(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._due_s = time.monotonic() + pause_s

    def _is_done(self, piece: Piece) -> bool:
        with hurried():
            piece.run()
        return self._trouble(piece.error) is None

    def _trouble(self, error: BaseException | None) -> Trouble | None:
        """What will pass by itself; None: the work is done, or will always fail."""
        if not self._is_server or not isinstance(error, sa.exc.DBAPIError):
            return None
        if error.connection_invalidated:
            return "cut"
        state: str | None = getattr(error.orig, "sqlstate", None)
        # 08: the connection; 57P: the server stops, or starts.
        if state is None or state.startswith(("08", "57P")):
            return "away" if isinstance(error, sa.exc.OperationalError) else None
        return "busy" if state.startswith(_BUSY) else None


def _longer(pause_s: float) -> float:
    return min(max(2 * pause_s, _AGAIN_S), _LONGEST_S)
