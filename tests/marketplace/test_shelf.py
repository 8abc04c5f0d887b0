"""Several models on one lease."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airan.core.clock import SystemClock
from airan.core.errors import CapacityError, NotFoundError
from marketplace.catalogue.cache import ModelCache
from marketplace.catalogue.records import FileSource
from marketplace.engines.agent import EngineAgentSettings
from marketplace.engines.leases import LeaseKeeper
from marketplace.engines.shared import SharedLease
from marketplace.engines.shelf import FurtherModel, run_shelf
from tests.marketplace.site import MODEL, FakeControl, FakeLease, eventually


@dataclass
class Lent:
    """A shared lease whose keeper was granted `sm_count` SMs by hand."""

    shared: SharedLease
    control: FakeControl = field(default_factory=FakeControl)

    @classmethod
    def of(cls, *sm_counts: int) -> Lent:
        control, clock = FakeControl(), SystemClock()
        keeper = LeaseKeeper(control, "engine-0", 1, clock, confirm_timeout_s=30.0)
        return cls(SharedLease(keeper, clock, sm_counts), control)

    async def grant(self, sm_count: int) -> None:
        self.shared.keeper.lease = FakeLease("lease-1", "engine-0", sm_count)
        await self.shared.keeper.on_granted(self.shared.keeper.lease)


async def test_the_first_has_the_rest_and_shrinks_for_the_others() -> None:
    lent = Lent.of(16, 32)
    await lent.grant(80)
    shared = lent.shared
    assert shared.lend(0, "a", 1).sm_count == 80
    part = shared.lend(1, "b", 1)
    assert shared.parts_of(0)[0].sm_count == 64
    shared.lend(2, "c", 1)
    assert shared.parts_of(0)[0].sm_count == 32
    assert shared.sm_lent == shared.sm_count
    shared.take(1, part.id)
    assert shared.parts_of(0)[0].sm_count == 48


async def test_what_does_not_fit_beside_the_first_is_not_lent() -> None:
    lent = Lent.of(16)
    await lent.grant(31)
    with pytest.raises(CapacityError, match="no part"):
        lent.shared.lend(1, "b", 1)
    assert lent.shared.lend(0, "a", 1).sm_count == 31
    with pytest.raises(NotFoundError, match="does not have the part"):
        lent.shared.take(1, "lease-1/9")


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    st.lists(st.tuples(st.sampled_from("lgt"), st.integers(0, 160)), max_size=30),
)
def test_more_than_the_lease_is_never_lent(
    sm_counts: list[int], moves: list[tuple[str, int]]
) -> None:
    async def play() -> None:
        lent = Lent.of(*sm_counts)
        shared = lent.shared
        for move, value in moves:
            number = value % (len(sm_counts) + 1)
            if move == "g":
                # Nobody watches: what no longer fits is back at once.
                await lent.grant(max(16, value))
            elif move == "t":
                for part in shared.parts_of(number):
                    shared.take(number, part.id)
            else:
                try:
                    shared.lend(number, "x", 1)
                except CapacityError:
                    continue
            assert shared.sm_lent <= shared.sm_count
            assert all(part.sm_count > 0 for part in shared.parts_of(0))

    asyncio.run(play())


async def test_a_file_that_cannot_be_loaded_fails_alone(
    model_path: Path, control: FakeControl, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"no model at all")
    source = FileSource("broken", hashlib.sha256(b"no model at all").hexdigest(), path=broken)
    cache = ModelCache(tmp_path / "cache", tmp_path / "state")
    settings = EngineAgentSettings(
        name="engine-0", model=MODEL, model_path=model_path, port=0, background=False
    )
    further = [FurtherModel(replace(settings, model="broken", model_path=broken), source)]
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        run_shelf(settings, further, cache, stop, source=control, on_port=port.set_result)
    )
    try:
        url = f"http://127.0.0.1:{await port}"
        await asyncio.to_thread(cache.fetch, source)
        await eventually(lambda: cache.look(source).state == "failed", 30)
        assert "cannot load" in cache.look(source).reason
        async with httpx.AsyncClient(timeout=30) as http:

            async def ready() -> bool:
                return (await http.get(f"{url}/state")).json()["phase"] == "ready"

            await eventually(ready, 30)
            state = (await http.get(f"{url}/models/broken/state")).json()
            assert (state["phase"], state["url"]) == ("no_lease", "")
    finally:
        stop.set()
        await task
