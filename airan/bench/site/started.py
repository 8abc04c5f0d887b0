"""A site of the bench's own: started as a user starts it, and ended with all that it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

import airan
from airan.core.config import PortsConfig, SiteConfig
from airan.core.errors import AiranError, InvalidInputError, NotFoundError, UnavailableError
from airan.core.sections import ENV_PREFIX
from airan.site import launch
from airan.site import runtime as site_runtime
from airan.site.processes import sweep
from airan.site.runtime import SiteRuntime
from airan.site.services import journal_file
from airan.site.slot_journal import Fate, JournalReader

SLOT_RECORDS = 1 << 17
"""Over a minute of a GPU's slots; they are read every so often."""
_END_S = 60.0
_POLL_S = 0.2
_STEADY_SLOTS = 10
_TAIL = 1500


@dataclass(frozen=True)
class StartedSite:
    """A site that serves.

    Attributes:
        runtime: its addresses and folders.
        slots_s, ready_s: from its start until slots ended in time, until it served requests.
    """

    runtime: SiteRuntime
    slots_s: float
    ready_s: float


def config_for(config: SiteConfig, state_dir: Path) -> SiteConfig:
    """The configuration of a site of the bench's own: its folder, free ports, records of slots."""
    ports = PortsConfig.model_validate(dict.fromkeys(PortsConfig.model_fields, 0))
    return config.model_copy(
        update={
            "state_dir": state_dir,
            "ports": ports,
            "market": config.market.model_copy(update={"grpc_port": 0}),
            "ran": config.ran.model_copy(update={"slot_records": SLOT_RECORDS}),
        }
    )


@asynccontextmanager
async def started(
    config: SiteConfig, *, on_gpu: bool, limit_s: float, say: Callable[[str], None]
) -> AsyncIterator[StartedSite]:
    """`airan up` until the body ends. `config` as of `config_for`.

    Raises:
        UnavailableError: it ends, or does not serve within `limit_s`; with what it printed.
    """
    folder = config.state_dir.parent
    file, output = folder / "site.yaml", folder / "airan-up.out"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    kept = {key: one for key, one in os.environ.items() if not key.startswith(ENV_PREFIX)}
    # Of what the site starts some runs in another Python: it gets no folder of this one's own.
    here = str(Path(airan.__file__).parents[1])
    path = os.pathsep.join(filter(None, (here, kept.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "airan", "--config", str(file), "up"]
    with output.open("wb") as out:
        process = subprocess.Popen(
            [*command, *(["--gpu"] if on_gpu else [])],
            env={**kept, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        yield await _Waiting(config.state_dir, process, output, limit_s, say).wait()
    finally:
        await asyncio.to_thread(_end, process, config.state_dir)


class _Waiting:
    """For a site to come up."""

    def __init__(
        self,
        state_dir: Path,
        process: subprocess.Popen[bytes],
        output: Path,
        limit_s: float,
        say: Callable[[str], None],
    ) -> None:
        self._state_dir, self._process, self._output = state_dir, process, output
        self._begun_s, self._limit_s, self._say = time.monotonic(), limit_s, say

    async def wait(self) -> StartedSite:
        self._say("starting the site")
        while (runtime := self._runtime()) is None:
            await self._rest("does not start")
        self._say("waiting for Layer 1's slots")
        slots_s = await self._until_slots(journal_file(runtime))
        self._say("waiting for the engine")
        while not await asyncio.to_thread(launch.ready, runtime, serving=True):
            await self._rest(f"runs slots since {slots_s:.0f} s, and does not serve")
        return StartedSite(runtime, slots_s, time.monotonic() - self._begun_s)

    def _runtime(self) -> SiteRuntime | None:
        with contextlib.suppress(NotFoundError):
            return site_runtime.load(self._state_dir)
        return None

    async def _until_slots(self, path: Path) -> float:
        reader: JournalReader | None = None
        n_in_time = 0
        while n_in_time < _STEADY_SLOTS:
            await self._rest("has no slots that end in time")
            if reader is None:
                with contextlib.suppress(NotFoundError, InvalidInputError):
                    reader = JournalReader(path)
            else:
                n_in_time += int((reader.take()["fate"] == Fate.ON_TIME).sum())
        if reader is not None:
            reader.close()
        return time.monotonic() - self._begun_s

    async def _rest(self, what: str) -> None:
        """A moment; or the end of patience."""
        if self._process.poll() is not None:
            raise UnavailableError(f"the site ended while it started: {self._tail()}")
        if time.monotonic() - self._begun_s > self._limit_s:
            raise UnavailableError(
                f"the site {what} within {self._limit_s:g} s: {self._tail()}",
                remedy="have its logs kept by --logs, and look there",
            )
        await asyncio.sleep(_POLL_S)

    def _tail(self) -> str:
        return self._output.read_text(errors="replace")[-_TAIL:].strip()


def _end(process: subprocess.Popen[bytes], state_dir: Path) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
    if process.poll() is None:
        process.kill()
    process.wait()
    with contextlib.suppress(AiranError):
        sweep(site_runtime.load(state_dir).instance)


def keep_logs(state_dir: Path, folder: Path) -> None:
    """Copies what the site's services wrote, for whoever has to find out why."""
    folder.mkdir(parents=True, exist_ok=True)
    found = [*(state_dir / "log").glob("*"), state_dir / "run" / "vllm.log"]
    found += [*(state_dir / "mps" / "log").glob("*"), state_dir.parent / "airan-up.out"]
    for path in found:
        if path.is_file():
            prefix = "mps-" if path.parent.parent.name == "mps" else ""
            shutil.copyfile(path, folder / f"{prefix}{path.name}")
