"""The thread that does the store's work: one piece after the other, kept several at a time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

import sqlalchemy as sa

from marketplace.store.connect import together

P = ParamSpec("P")
T = TypeVar("T")
_MOST_AT_ONCE = 128


class StoreThread:
    """Runs work in the order in which it is given.

    On SQLite all that waits is one transaction: it is synchronised to the disk once, and nobody
    is told that their part is done before. A part that fails takes nothing else with it. On
    PostgreSQL every piece is a transaction of its own: two gateways that kept the rows of several
    tenants locked, each in its own order, would wait for each other.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._most = _MOST_AT_ONCE if engine.dialect.name == "sqlite" else 1
        self._queue: queue.SimpleQueue[_Piece | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Has the work done; the future ends when its outcome is kept.

        Raises:
            RuntimeError: the thread was closed.
        """
        piece = _Piece(partial(work, *args, **kwargs))
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
            if len(pieces) == 1:
                pieces[0].run()
            else:
                self._run_together(pieces)
            for piece in pieces:
                piece.tell()

    def _next(self) -> list[_Piece] | None:
        """What waits, at least one; None at the end."""
        first = self._queue.get()
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
            with together(self._engine):
                for piece in pieces:
                    piece.run()
        except sa.exc.SQLAlchemyError as error:
            for piece in pieces:
                piece.fail(error)


class _Piece:
    """One piece of work, and who waits for it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.future: Future[Any] = Future()
        self._work = work
        self._cancelled = False
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        self._cancelled = not self.future.set_running_or_notify_cancel()
        if self._cancelled:
            return
        try:
            self._result = self._work()
        except BaseException as error:  # it belongs to whoever waits, as in an Executor
            self._error = error

    def fail(self, error: BaseException) -> None:
        """It is not kept, whatever became of it."""
        self._error = error

    def tell(self) -> None:
        if self._cancelled:
            return
        if self._error is not None:
            self.future.set_exception(self._error)
        else:
            self.future.set_result(self._result)
