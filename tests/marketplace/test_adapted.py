"""Which adapters an engine loads, and what becomes of those that it cannot load."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from airan.core.errors import InvalidInputError, ModelFileError, UnavailableError
from marketplace.adapters.adapter import AdapterFile
from marketplace.adapters.folder import AdapterFolder
from marketplace.engines.adapted import AdapterSet
from tests.marketplace.lora_files import KEYS, gguf
from tests.marketplace.site import FakeLease

NAME = "blk.0.attn_output.weight"
BASE = "model"


class Host:
    """Loads what it is told to, but for those in `bad`; `live`: while it runs, too."""

    def __init__(self, *bad: str, live: bool = False) -> None:
        self.url = ""
        self.takes_adapters = live
        self.bad = set(bad)
        self.loaded: list[str] = []
        self.starts: list[list[str]] = []
        self.answers = True

    async def start(self, adapters: Sequence[AdapterFile] = ()) -> None:
        ids = [one.id for one in adapters]
        self.starts.append(ids)
        if self.bad & set(ids):
            raise ModelFileError("the simulated engine cannot load it")
        self.url, self.loaded = "http://here", list(ids)

    async def occupy(self, lease: FakeLease) -> None:
        """A server for each lease."""
        if self.url != f"http://{lease.id}":
            await self.start()
            self.url = f"http://{lease.id}"

    async def add_adapter(self, adapter: AdapterFile) -> None:
        if not self.answers:
            raise UnavailableError("the simulated engine does not answer")
        if adapter.id in self.bad:
            raise InvalidInputError("adapter", "the simulated engine cannot load it")
        self.loaded.append(adapter.id)

    async def drop_adapter(self, adapter: AdapterFile) -> None:
        self.loaded.remove(adapter.id)

    def disconnect(self) -> None:
        """Nothing is connected."""

    async def stop(self) -> None:
        self.url, self.loaded = "", []

    async def running(self) -> int:
        return 0


class Shelf:
    """Adapters' files and what is published of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = AdapterFolder(folder / "adapters")
        self.model = folder / "model.gguf"
        self.model.write_bytes(gguf({"general.architecture": "llama"}, {NAME: np.ones((64, 32))}))
        self._place = folder

    def file(self, name: str, n_out: int = 64) -> AdapterFile:
        pair = {f"{NAME}.lora_a": np.ones((4, 32)), f"{NAME}.lora_b": np.ones((n_out, 4))}
        data = gguf(KEYS, pair)
        path = self._place / f"{name}.gguf"
        path.write_bytes(data)
        return AdapterFile(name, path, "gguf", hashlib.sha256(data).hexdigest(), 4)

    def publish(self, *files: AdapterFile) -> None:
        self.folder.publish(BASE, files)

    def set_of(self, host: Host) -> AdapterSet:
        return AdapterSet(host, self.folder, BASE, "engine-0", self.model)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


async def test_an_engine_starts_with_what_is_published_and_sees_when_that_changes(
    shelf: Shelf,
) -> None:
    host = Host()
    adapters = shelf.set_of(host)
    await adapters.start()
    assert (host.loaded, adapters.loaded, adapters.is_stale) == ([], (), False)
    shelf.publish(shelf.file("a"))
    assert adapters.is_stale
    assert not await adapters.follow(), "it took over an adapter without a restart"
    await host.stop()
    await adapters.start()
    assert (host.loaded, adapters.loaded, adapters.is_stale) == (["a"], ("a",), False)
    assert host.starts == [[], ["a"]]


async def test_what_is_not_wanted_any_more_takes_no_restart(shelf: Shelf) -> None:
    one, two = shelf.file("a"), shelf.file("b")
    shelf.publish(one, two)
    host = Host()
    adapters = shelf.set_of(host)
    await adapters.start()
    shelf.publish(two)
    assert await adapters.follow()
    assert adapters.loaded == ("a", "b")
    shelf.publish(one, two)
    assert await adapters.follow()
    assert len(host.starts) == 1


async def test_files_that_were_changed_or_belong_to_another_model_are_not_loaded(
    shelf: Shelf,
) -> None:
    good, changed, other = shelf.file("a"), shelf.file("b"), shelf.file("c", n_out=65)
    gone = replace(good, id="d", path=good.path.with_name("gone.gguf"))
    changed.path.write_bytes(changed.path.read_bytes()[:-1] + b"x")
    shelf.publish(good, changed, other, gone)
    host = Host()
    adapters = shelf.set_of(host)
    await adapters.start()
    assert host.starts == [["a"]]
    refused = dict(adapters.refused)
    assert "SHA-256" in refused["b"]
    assert "of 32 x 65" in refused["c"]
    assert "cannot be read" in refused["d"]


async def test_one_that_the_engine_cannot_load_does_not_keep_the_others_away(shelf: Shelf) -> None:
    shelf.publish(shelf.file("a"), shelf.file("bad"), shelf.file("b"))
    host = Host("bad")
    adapters = shelf.set_of(host)
    await adapters.start()
    assert (host.loaded, adapters.loaded) == (["a", "b"], ("a", "b"))
    assert dict(adapters.refused) == {"bad": "the simulated engine cannot load it"}
    assert shelf.folder.tried("engine-0") == []


async def test_an_engine_that_loads_nothing_at_all_says_so(shelf: Shelf) -> None:
    class Broken(Host):
        async def start(self, adapters: Sequence[AdapterFile] = ()) -> None:
            raise ModelFileError("the model is broken")

    shelf.publish(shelf.file("a"))
    with pytest.raises(ModelFileError, match="the model is broken"):
        await shelf.set_of(Broken()).start()


async def test_one_that_a_process_died_of_is_not_tried_again(shelf: Shelf) -> None:
    class Deadly(Host):
        async def start(self, adapters: Sequence[AdapterFile] = ()) -> None:
            if "deadly" in [one.id for one in adapters]:
                raise SystemExit
            await super().start(adapters)

    good, deadly = shelf.file("a"), shelf.file("deadly")
    shelf.publish(good)
    await shelf.set_of(Deadly()).start()
    shelf.publish(good, deadly)
    first = shelf.set_of(Deadly())
    with pytest.raises(SystemExit):
        await first.start()
    for _ in range(2):
        # Neither the next process nor the one after it.
        host = Deadly()
        adapters = shelf.set_of(host)
        await adapters.start()
        assert "deadly" not in host.loaded
        assert "died" in dict(adapters.refused)["deadly"]
    await host.stop()


async def test_an_engine_that_loads_while_it_runs_follows_without_a_restart(shelf: Shelf) -> None:
    one, two, bad = shelf.file("a"), shelf.file("b"), shelf.file("bad")
    shelf.publish(one, bad)
    host = Host("bad", live=True)
    adapters = shelf.set_of(host)
    await adapters.start()
    assert (host.loaded, adapters.loaded) == (["a"], ("a",))
    shelf.publish(two, bad)
    assert await adapters.follow()
    assert (host.loaded, adapters.loaded, host.starts) == (["b"], ("b",), [[]])
    assert list(dict(adapters.refused)) == ["bad"]


async def test_a_server_that_does_not_answer_is_told_again(shelf: Shelf) -> None:
    host = Host(live=True)
    adapters = shelf.set_of(host)
    await adapters.start()
    shelf.publish(shelf.file("a"))
    host.answers = False
    assert await adapters.follow()
    assert (adapters.loaded, adapters.is_stale) == ((), True)
    host.answers = True
    assert await adapters.follow()
    assert (adapters.loaded, adapters.is_stale, adapters.refused) == (("a",), False, ())


async def test_a_server_that_is_started_anew_for_a_lease_gets_its_adapters_again(
    shelf: Shelf,
) -> None:
    shelf.publish(shelf.file("a"))
    host = Host(live=True)
    adapters = shelf.set_of(host)
    one, two = FakeLease("one", "engine-0"), FakeLease("two", "engine-0")
    for lease, n_starts in ((one, 1), (one, 1), (two, 2)):
        await adapters.occupy(lease)
        assert (host.loaded, adapters.loaded, len(host.starts)) == (["a"], ("a",), n_starts)
