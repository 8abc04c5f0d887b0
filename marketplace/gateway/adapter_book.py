"""Which adapters there are, and which of them the engines are to have loaded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from airan.core.clock import Clock
from airan.core.errors import AiranError, InvalidInputError, ModelFileError, UnavailableError
from marketplace.adapters.adapter import LATE_S, Adapter, Adapters
from marketplace.adapters.folder import AdapterFolder
from marketplace.dispatch import Dispatcher
from marketplace.gateway.settings import GatewaySettings
from marketplace.store.database import Database

log = logging.getLogger(__name__)

_LOOK_S = 0.5
_REFRESH_S = 1.0
"""How long what another gateway changed may stay unknown here."""
_KEEP_S = 60.0
"""How long a removed adapter's file stays, besides as long as a request needs it."""


class AdapterBook(Adapters):
    """Runs in one event loop; use open(), start() and stop()."""

    def __init__(self, settings: GatewaySettings, clock: Clock) -> None:
        super().__init__()
        self._settings = settings
        self._clock = clock
        self._deleted: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self._publishing = asyncio.Lock()
        self.folder = AdapterFolder(settings.state_dir / "adapters")

    async def open(self, db: Database, dispatcher: Dispatcher) -> None:
        """Reads what there is; files that were coming in at a gateway that has ended must come
        again."""
        self._db, self._dispatcher = db, dispatcher
        await db.call(db.adapters.recover)
        await self.refresh()

    def start(self) -> None:
        """Tells the engines which to load, from now on; the open jobs are known."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ends that."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def refresh(self) -> None:
        """Reads them anew; called when one was changed here."""
        self.take(await self._db.call(self._db.adapters.list))

    async def add(self, adapter: Adapter) -> None:
        """Adds one, whose file is yet to come.

        Raises:
            InvalidInputError: its model takes none, its name is taken, or there are too many.
        """
        self._check_offer(adapter)
        await self._db.call(self._db.adapters.add, adapter, self._settings.adapter_limits)
        await self.refresh()

    async def receive(self, adapter: Adapter, content: AsyncIterator[bytes]) -> Adapter:
        """Takes in its file and checks it; what is not right leaves it failed, for another try.

        Raises:
            InvalidInputError: the file is there already, or is not the adapter's, or none.
        """
        rows = self._db.adapters
        if not await self._db.call(rows.begin, adapter.id):
            text = f"the file of {adapter.model!r} is there, or is being sent"
            raise InvalidInputError("content", text, remedy="remove the adapter and add another")
        new: Path | None = None
        try:
            new = await asyncio.to_thread(self.folder.new_file)
            await _write(new, content, adapter.size_bytes)
            rank = await asyncio.to_thread(self.folder.keep, adapter, new)
            if not await self._db.call(rows.end, adapter.id, "ready", rank=rank):
                text = "the file was given up: this gateway was taken for dead"
                raise UnavailableError(text, remedy="send it again")
        except ModelFileError as error:
            await self._db.call(rows.end, adapter.id, "failed", error.message)
            raise InvalidInputError("content", error.message, remedy=error.remedy) from error
        except BaseException as error:
            self._db.post(rows.end, adapter.id, "failed", "it did not come in whole")
            if isinstance(error, OSError):
                text = f"the adapter's file cannot be kept: {error.strerror}"
                raise UnavailableError(text, remedy="tell the operator") from error
            raise
        finally:
            if new is not None:
                await asyncio.to_thread(new.unlink, missing_ok=True)
            await self.refresh()
        with suppress(OSError):
            # Else it is done soon, by whoever looks regularly.
            await self.publish()
        return await self._db.call(rows.get, adapter.id)

    async def remove(self, adapter: Adapter) -> None:
        """Takes it away; requests that have begun with it go on."""
        await self._db.call(self._db.adapters.remove, adapter.id, self._clock.now_s())
        await self.refresh()
        with suppress(OSError):
            await self.publish()

    async def publish(self) -> None:
        """Tells the engines which adapters to have, where that has changed.

        Several gateways do it in one folder, each by what the database says at that moment: so
        they agree.
        """
        async with self._publishing:
            if await self._untold():
                await self.refresh()
                for base, wanted in (await self._untold()).items():
                    files = [self.folder.file_of(one) for one in wanted]
                    await asyncio.to_thread(self.folder.publish, base, files)

    async def _untold(self) -> dict[str, list[Adapter]]:
        """What engines are to have, of the models where that is not what was published last."""
        used = await self._used()
        wanted: dict[str, list[Adapter]] = {base: [] for base in self._settings.offers}
        for one in sorted(self, key=lambda one: (one.created_s, one.id)):
            gone_s = self._clock.now_s() - (one.removed_s or 0.0)
            if one.removed_s is None or one.id in used or gone_s < LATE_S:
                if one.state == "ready":
                    wanted.setdefault(one.base, []).append(one)
            else:
                await self._delete(one, gone_s)
        published = {base: await asyncio.to_thread(self.folder.wanted, base) for base in wanted}
        return {
            base: found
            for base, found in wanted.items()
            if [one.id for one in found] != [one.id for one in published[base]]
        }

    async def _used(self) -> set[str]:
        """Ids of removed ones that a request goes on with, at whichever gateway."""
        if all(one.removed_s is None or one.id in self._deleted for one in self):
            return set()
        asked = await self._db.call(self._db.adapters.requested)
        found = (self.find(one.tenant_id, one.model, one.created_s) for one in asked)
        return {one.id for one in found if one is not None}

    async def _delete(self, adapter: Adapter, gone_s: float) -> None:
        if adapter.id not in self._deleted and gone_s > _KEEP_S:
            await asyncio.to_thread(self.folder.remove, adapter)
            self._deleted.add(adapter.id)

    async def _run(self) -> None:
        read_s = self._clock.monotonic_s()
        while True:
            try:
                if self._clock.monotonic_s() - read_s >= _REFRESH_S:
                    read_s = self._clock.monotonic_s()
                    await self._db.call(self._db.adapters.recover)
                    await self.refresh()
                await self._hear_engines()
                await self._end_hopeless()
                await self.publish()
            except (AiranError, OSError) as error:
                log.warning("the engines were not told which adapters to load: %s", error)
            await asyncio.sleep(_LOOK_S)

    async def _hear_engines(self) -> None:
        """What an engine cannot load is of no use."""
        for engine in self._dispatcher.pool.engines:
            for adapter_id, reason in engine.state.refused:
                if self.refused(adapter_id, reason) is not None:
                    await self._db.call(self._db.adapters.refuse, adapter_id, reason)

    async def _end_hopeless(self) -> None:
        """Jobs that were accepted for it would wait for ever."""
        failed = {one.id: one for one in self if one.state == "failed"}
        if not failed:
            return
        for job in list(self._dispatcher.waiting):
            if job.adapter is not None and job.adapter.id in failed:
                reason = failed[job.adapter.id].reason
                text = f"the adapter {job.adapter.model!r} cannot be used: {reason}"
                await self._dispatcher.give_up(job, InvalidInputError("model", text))

    def _check_offer(self, adapter: Adapter) -> None:
        offer = self._settings.offers.get(adapter.base)
        if offer is None:
            raise InvalidInputError("base", f"{adapter.base!r} is not served here")
        offer.check_adapter(adapter.format)
        limit = self._settings.adapter_limits.max_bytes
        if adapter.size_bytes > limit:
            raise InvalidInputError("size_bytes", f"an adapter's file has {limit} bytes at most")


async def _write(path: Path, content: AsyncIterator[bytes], size_bytes: int) -> None:
    """Writes what comes in; more than was said is not taken.

    Raises:
        ModelFileError: it is more.
    """
    n_bytes = 0
    with path.open("wb") as file:
        async for piece in content:
            n_bytes += len(piece)
            if n_bytes > size_bytes:
                raise ModelFileError(f"the file has more than its {size_bytes} bytes")
            await asyncio.to_thread(file.write, piece)
