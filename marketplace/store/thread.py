"""The thread that does the store's work: one piece after the other, kept several at a time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

import sqlalchemy as sa

from marketplace.store.connect import SpoiledError, together
from marketplace.store.held import Held, Piece

P = ParamSpec("P")
T = TypeVar("T")
_MOST_AT_ONCE = 128


class StoreThread:
    """Runs work in the order in which it is given.

    On SQLite all that waits is one transaction: it is synchronised to the disk once, and nobody
    is told that their part is done before. A part that fails takes nothing else with it: if it had
    written something, all are run again, each by itself, so work must do nothing but what can be
    rolled back. On PostgreSQL every piece is a transaction of its own: two gateways that kept the
    rows of several tenants locked, each in its own order, would wait for each other.

    Work that is insisted on is tried again until PostgreSQL has stored it: where the server is
    away, and where it gave up for a while only, as after waiting for a lock for too long. What is
    insisted on of one tenant is done in its order.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._most = _MOST_AT_ONCE if engine.dialect.name == "sqlite" else 1
        self._queue: queue.SimpleQueue[Piece | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._patient = True
        self._held = Held(engine)
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Has the work done; the future ends when its outcome is kept.

        Raises:
            RuntimeError: the thread was closed.
        """
        return self._put(Piece(partial(work, *args, **kwargs)))

    def insist(
        self,
        whose: str,
        work: Callable[P, T],
        again: Callable[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Future[T]:
        """Has the work done, and as often as the server fails for a while only, `again`.

        `again` finds out whether the work is done already: the answer alone may have been lost.
        `whose`: the tenant's id; work that is insisted on for the same one never overtakes it.

        Raises:
            RuntimeError: the thread was closed.
        """
        once, more = partial(work, *args, **kwargs), partial(again, *args, **kwargs)
        return self._put(Piece(once, more, whose))

    def relent(self) -> None:
        """From now on nothing is kept to be tried again: the end is near."""
        self._patient = False
        with self._lock:
            if not self._closed:
                # The thread may be waiting until something is due.
                self._queue.put(Piece(lambda: None))

    def _put(self, piece: Piece) -> Future[Any]:
        with self._lock:
            if self._closed:
                raise RuntimeError("the store is closed")
            self._queue.put(piece)
        return piece.future

    def close(self) -> None:
        """Returns when all that was submitted is done. Idempotent."""
        with self._lock:
            if not self._closed:
                self._queue.put(None)
            self._closed = True
        self._thread.join()

    def _run(self) -> None:
        while (pieces := self._next()) is not None:
            self._try_again()
            if len(pieces) > 1:
                self._run_together(pieces)
            elif pieces and (error := self._held.before(pieces[0])) is not None:
                pieces[0].fail(error)
            elif pieces:
                self._held.run(pieces[0])
            for piece in pieces:
                if not (self._patient and self._held.take(piece)):
                    piece.tell()
        self._patient = False
        self._try_again()

    def _try_again(self) -> None:
        for piece in self._held.try_again(at_once=not self._patient):
            piece.tell()
        if not self._patient:
            for piece in self._held.let_go():
                piece.tell()

    def _next(self) -> list[Piece] | None:
        """What waits, if only for a while where some is held; None at the end."""
        try:
            first = self._queue.get(timeout=self._held.due_in_s)
        except queue.Empty:
            return []
        if first is None:
            return None
        pieces = [first]
        while len(pieces) < self._most:
            try:
                piece = self._queue.get_nowait()
            except queue.Empty:
                break
            if piece is None:
                self._queue.put(None)
                break
            pieces.append(piece)
        return pieces

    def _run_together(self, pieces: list[Piece]) -> None:
        try:
            with together(self._engine) as is_spoiled:
                for piece in pieces:
                    piece.run()
                    if is_spoiled():
                        break
        except SpoiledError:
            for piece in pieces:
                piece.run()
        except sa.exc.SQLAlchemyError as error:
            for piece in pieces:
                piece.fail(error)
