"""The store seen from the event loop: one thread does all the work, in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from airan.core.errors import AiranError, UnavailableError
from marketplace.store.accounts import Accounts
from marketplace.store.adapters import AdapterRows
from marketplace.store.batches import Batches
from marketplace.store.billing import Billing
from marketplace.store.books import Books
from marketplace.store.connect import open_database
from marketplace.store.contents import FileContents, contents_of
from marketplace.store.functions import Functions
from marketplace.store.idempotency import IdempotencyKeys
from marketplace.store.keys import Keys
from marketplace.store.ledger import Ledger
from marketplace.store.peering import Peering
from marketplace.store.prices import Prices
from marketplace.store.seats import Seats
from marketplace.store.secrets import SharedSecrets
from marketplace.store.sendings import Sendings
from marketplace.store.statements import Statements
from marketplace.store.thread import StoreThread
from marketplace.store.users import Users
from marketplace.store.webhooks import Webhooks

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger(__name__)


class StoreFailedError(UnavailableError):
    """The database cannot be read or written now. What was asked for may have been done."""


class Database:
    """The stores, which are blocking; reach them through call() and post().

    Calls run one after the other in the order given, so what was posted is stored before what is
    called later.
    """

    def __init__(self, url: str, gateway_id: str | None = None) -> None:
        """`gateway_id`: of the gateway whose jobs these are; None: whoever works on the database
        has it for itself."""
        self._engine = open_database(url)
        self.gateway_id = gateway_id
        self._thread = StoreThread(self._engine)
        self.accounts = Accounts(self._engine)
        self.keys = Keys(self._engine)
        self.adapters = AdapterRows(self._engine, gateway_id)
        self.users = Users(self._engine)
        self.peering = Peering(self._engine)
        self.sendings = Sendings(self._engine, gateway_id)
        self.prices = Prices(self._engine)
        self.billing = Billing(self._engine)
        self.books = Books(self._engine)
        self.statements = Statements(self._engine)
        self.ledger = Ledger(self._engine, gateway_id)
        self.batches = Batches(self._engine, gateway_id)
        self.functions = Functions(self._engine, gateway_id)
        self.secrets = SharedSecrets(self._engine)
        self.webhooks = Webhooks(self._engine)
        self.idempotency = IdempotencyKeys(self._engine, gateway_id)

    def seats(self, gateway_id: str, url: str, models: Collection[str]) -> Seats:
        """Those of the gateways on the database, as that one sees them."""
        return Seats(self._engine, gateway_id, url, models)

    async def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs `work` in the store's thread and waits for it.

        Cancelling the waiting does not undo the work.

        Raises:
            UnavailableError: the database cannot be read or written.
        """
        return await _kept(asyncio.wrap_future(self._thread.submit(work, *args, **kwargs)))

    async def aside(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Like call(), but in a thread of its own: for what takes so long that all else would
        wait for it, and needs no place in the order.

        Raises:
            UnavailableError: the database cannot be read or written.
        """
        return await _kept(asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs)))

    async def insist(
        self,
        whose: str,
        work: Callable[P, T],
        again: Callable[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Like call(), but tried until PostgreSQL has stored it, or the database is closed: where
        the server is away, and where it was only too busy (a lock, a deadlock, a full disk).

        `again` is what is run in place of `work` once nobody knows whether that was done. `whose`:
        the tenant's id; what is insisted on for the same one is done in the order given.

        Raises:
            UnavailableError: the database is being closed, or failed in another way.
        """
        done = self._thread.insist(whose, work, again, *args, **kwargs)
        return await _kept(asyncio.wrap_future(done))

    def insist_later(
        self,
        whose: str,
        work: Callable[P, Any],
        again: Callable[P, Any],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Like post(), but tried until it is stored, as insist() does."""
        done = self._thread.insist(whose, work, again, *args, **kwargs)
        done.add_done_callback(_log_failure)

    def relent(self) -> None:
        """From now on what PostgreSQL does not store at once is not tried again."""
        self._thread.relent()

    def post(self, work: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
        """Has `work` done soon; a failure is logged."""
        self._thread.submit(work, *args, **kwargs).add_done_callback(_log_failure)

    async def flush(self) -> None:
        """Returns when what was posted is done."""
        with suppress(AiranError):
            await self.call(lambda: None)

    def contents(self, folder: Path) -> FileContents:
        """What its files hold, for aside(); beside SQLite it is in `folder`."""
        return contents_of(self._engine, folder)

    def close(self) -> None:
        """Finishes what was posted, then closes the database."""
        self._thread.close()
        self._engine.dispose()


async def _kept(future: Awaitable[T]) -> T:
    try:
        return await asyncio.shield(future)
    except SQLAlchemyError as error:
        log.error("the store failed: %s", error)
        raise StoreFailedError(
            "the marketplace's database failed", remedy="try again in a few seconds"
        ) from error


def _log_failure(done: Future[Any]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        log.error("the store could not write: %s", error, exc_info=error)
