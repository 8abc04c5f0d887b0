"""An engine's server with the LoRA adapters that it is to have, as far as it can load them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from airan.core.errors import AiranError, InvalidInputError, ModelFileError, UnavailableError
from marketplace.adapters.adapter import AdapterFile
from marketplace.adapters.folder import AdapterFolder, check_file
from marketplace.engines.hosts import EngineHost
from marketplace.engines.leases import Lease

log = logging.getLogger(__name__)

_DIED = "the engine died when it loaded it"
_NEVER = -1


class AdapterSet:
    """Which adapters the engine `engine`, of the model at `model_path`, has and refuses."""

    def __init__(
        self,
        host: EngineHost,
        folder: AdapterFolder | None,
        base: str,
        engine: str,
        model_path: Path,
    ) -> None:
        self._host = host
        self._folder = folder
        self._base = base
        self._engine = engine
        self._model_path = model_path
        self._stamp = 0
        self._loaded: list[AdapterFile] = []
        self._proven: set[str] = set()
        """Those that the engine has loaded once without dying of it."""
        self._refused: dict[str, str] = {}
        self._starting = asyncio.Lock()

    @property
    def loaded(self) -> tuple[str, ...]:
        """Ids of the adapters that the server has, in the order in which it was given them."""
        return tuple(one.id for one in self._loaded)

    @property
    def refused(self) -> tuple[tuple[str, str], ...]:
        """Ids of those that it cannot load, and why."""
        return tuple(sorted(self._refused.items()))

    @property
    def is_stale(self) -> bool:
        """Whether another set is wanted than when it was last looked at."""
        return self._folder is not None and self._folder.stamp(self._base) != self._stamp

    async def start(self) -> None:
        """Starts the server with all that it can load.

        Raises:
            ModelFileError: it cannot load the model itself.
        """
        async with self._starting:
            if self._host.url:
                return
            wanted = await self._wanted()
            if wanted and self._host.takes_adapters:
                await self._attempt([])
                await self._add(wanted)
                return
            try:
                await self._attempt(wanted)
            except ModelFileError as error:
                if not wanted:
                    raise
                log.warning("adapters of %s are loaded one by one: %s", self._base, error)
                await self._one_by_one(wanted)

    async def occupy(self, lease: Lease) -> None:
        """The same on the lease's partition, for a server that follows its lease there.

        Raises:
            ModelFileError: it cannot load the model itself.
            ConfigError: it cannot get to the partition.
        """
        if not self._host.takes_adapters:
            await self.start()
            await self._host.occupy(lease)
            return
        async with self._starting:
            before = self._host.url
            await self._host.occupy(lease)
            if self._host.url not in ("", before):
                self._loaded = []
                await self._add(await self._wanted())

    async def follow(self) -> bool:
        """Takes over the set that is wanted now; False: that needs a restart of the server.

        Where unloading would need one, what is not wanted any more stays loaded until the next.
        """
        async with self._starting:
            wanted = await self._wanted()
            if not self._host.takes_adapters:
                return all(one in self._loaded for one in wanted)
            for one in [one for one in self._loaded if one not in wanted]:
                with suppress(InvalidInputError, UnavailableError):
                    await self._host.drop_adapter(one)
                self._loaded.remove(one)
            await self._add([one for one in wanted if one not in self._loaded])
            return True

    async def _add(self, adapters: list[AdapterFile]) -> None:
        for one in adapters:
            await self._note([one])
            try:
                await self._host.add_adapter(one)
            except InvalidInputError as error:
                self._refuse(one, error.message)
            except UnavailableError as error:
                log.warning("adapter %s of %s is not loaded yet: %s", one.id, self._base, error)
                self._stamp = _NEVER
                break
            else:
                await self._have([*self._loaded, one])
        await self._note(())

    async def _wanted(self) -> list[AdapterFile]:
        """Those that are wanted and whose files are intact and fit the model."""
        if self._folder is None:
            return []
        self._stamp = self._folder.stamp(self._base)
        died_of = await asyncio.to_thread(self._folder.tried, self._engine)
        found = []
        for one in await asyncio.to_thread(self._folder.wanted, self._base):
            if one.id in died_of and one.id not in self._proven:
                self._refuse(one, _DIED)
            if one.id in self._refused:
                continue
            try:
                if one not in self._loaded:
                    await asyncio.to_thread(check_file, one, self._model_path)
            except ModelFileError as error:
                self._refuse(one, error.message)
            else:
                found.append(one)
        return found

    async def _attempt(self, adapters: list[AdapterFile]) -> None:
        await self._note(adapters)
        try:
            await self._host.start(adapters)
        except AiranError:
            await self._note(())
            raise
        await self._have(adapters)

    async def _one_by_one(self, wanted: list[AdapterFile]) -> None:
        good = [one for one in wanted if one.id in self._proven]
        for one in wanted:
            if one in good:
                continue
            try:
                await self._attempt([*good, one])
            except ModelFileError as error:
                self._refuse(one, error.message)
            else:
                good.append(one)
                await self._host.stop()
        await self._attempt(good)

    async def _have(self, adapters: list[AdapterFile]) -> None:
        self._loaded = adapters
        self._proven.update(one.id for one in adapters)
        await self._note(())

    async def _note(self, adapters: Sequence[AdapterFile]) -> None:
        """What the process may die of, for the next one; what an earlier one died of stays."""
        if self._folder is None:
            return
        died = [one for one, why in self._refused.items() if why == _DIED]
        new = [one.id for one in adapters if one.id not in self._proven]
        if [*died, *new] != await asyncio.to_thread(self._folder.tried, self._engine):
            await asyncio.to_thread(self._folder.note_tried, self._engine, [*died, *new])

    def _refuse(self, adapter: AdapterFile, reason: str) -> None:
        if adapter.id not in self._refused:
            log.warning("adapter %s of %s is not loaded: %s", adapter.id, self._base, reason)
            self._refused[adapter.id] = reason
