"""The thread that does the store's work: one piece after the other, kept several at a time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

import sqlalchemy as sa

from marketplace.store.connect import SpoiledError, together

P = ParamSpec("P")
T = TypeVar("T")
_MOST_AT_ONCE = 128
_AGAIN_S = 0.2
"""How often a server that is away is tried."""


class StoreThread:
    """Runs work in the order in which it is given.

    On SQLite all that waits is one transaction: it is synchronised to the disk once, and nobody
    is told that their part is done before. A part that fails takes nothing else with it: if it had
    written something, all are run again, each by itself, so work must do nothing but what can be
    rolled back. On PostgreSQL every piece is a transaction of its own: two gateways that kept the
    rows of several tenants locked, each in its own order, would wait for each other.

    Work that is insisted on is kept while PostgreSQL is away, and done before anything else when
    it is back; all other work fails meanwhile.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._most = _MOST_AT_ONCE if engine.dialect.name == "sqlite" else 1
        self._queue: queue.SimpleQueue[_Piece | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._patient = True
        self._held: list[_Piece] = []
        self._away: BaseException | None = None
        self._tried_s = 0.0
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Has the work done; the future ends when its outcome is kept.

        Raises:
            RuntimeError: the thread was closed.
        """
        return self._put(_Piece(partial(work, *args, **kwargs)))

    def insist(
        self, work: Callable[P, T], again: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Has the work done, and as often as the server's connection is lost meanwhile, `again`.

        `again` finds out whether the work is done already: the answer alone may have been lost.

        Raises:
            RuntimeError: the thread was closed.
        """
        return self._put(_Piece(partial(work, *args, **kwargs), partial(again, *args, **kwargs)))

    def relent(self) -> None:
        """From now on nothing is kept for a server that is away: the end is near."""
        self._patient = False

    def _put(self, piece: _Piece) -> Future[Any]:
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
            if self._held:
                for piece in pieces:
                    piece.fail(self._away)
            elif len(pieces) == 1:
                pieces[0].run()
            elif pieces:
                self._run_together(pieces)
            self._tell(pieces)
        self._patient = False
        self._try_again()

    def _try_again(self) -> None:
        """Does what is insisted on, in its order, as far as the server lets us."""
        now_s = time.monotonic()
        if self._patient and now_s - self._tried_s < _AGAIN_S:
            return
        self._tried_s = now_s
        held, self._held = self._held, []
        for piece in held:
            if not self._held:
                piece.run()
            self._tell([piece])

    def _tell(self, pieces: list[_Piece]) -> None:
        for piece in pieces:
            if self._patient and piece.insisted and _is_away(self._engine, piece.error):
                self._away = piece.error
                self._held.append(piece)
            else:
                piece.tell()

    def _next(self) -> list[_Piece] | None:
        """What waits, if only for a while where some is held; None at the end."""
        try:
            first = self._queue.get(timeout=_AGAIN_S if self._held else None)
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

    def _run_together(self, pieces: list[_Piece]) -> None:
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


class _Piece:
    """One piece of work, and who waits for it."""

    def __init__(self, work: Callable[[], Any], again: Callable[[], Any] | None = None) -> None:
        self.future: Future[Any] = Future()
        self.error: BaseException | None = None
        self.insisted = again is not None
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
        if self._cancelled:
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self._result)


def _is_away(engine: sa.Engine, error: BaseException | None) -> bool:
    """Whether the server was not there, or went within the work, so that nobody knows its end."""
    if engine.dialect.name == "sqlite" or not isinstance(error, sa.exc.DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    state = getattr(error.orig, "sqlstate", None)
    # 08: the connection; 57P: the server stops, or starts.
    passing = state is None or state.startswith(("08", "57P"))
    return isinstance(error, sa.exc.OperationalError) and passing
