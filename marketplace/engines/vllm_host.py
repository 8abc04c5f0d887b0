"""vLLM as a process group of its own: started, watched and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from airan.core.errors import AiranError, InvalidInputError, ModelFileError, UnavailableError
from marketplace.adapters.adapter import AdapterFile
from marketplace.engines.hosts import GpuAccess
from marketplace.engines.leases import Lease
from marketplace.engines.vllm import VllmEngine

log = logging.getLogger(__name__)

_POLL_S = 0.2
_LOG_TAIL_BYTES = 4000
_MPS = "CUDA_MPS_"
_NO_SLEEP = "leep mode is not supported"
_MODULE = "vllm.entrypoints.openai.api_server"


@dataclass(frozen=True)
class VllmSettings:
    """One vLLM server: `n_slots` requests at once with `n_ctx` tokens each."""

    model_path: Path
    """A model folder in Hugging Face's form."""
    model: str
    """The name it is served as."""
    python: Path
    """The Python of the environment that vLLM is installed in."""
    log_path: Path
    n_ctx: int = 2048
    n_slots: int = 4
    args: tuple[str, ...] = ()
    """Further options of vLLM's server, e.g. --gpu-memory-utilization=0.4."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Further variables."""
    start_timeout_s: float = 600.0
    gpu: GpuAccess | None = None
    """How it follows its lease to a partition; None: it runs beside its lease, on the CPU."""
    between_leases: str = "stay"
    """What it does without a lease: `stay` loaded where the partition's memory is the engine's for
    good, and otherwise stop; `sleep` without the GPU's memory; or `stop`."""
    sleep_level: int = 1
    """1: the weights go to the host's memory meanwhile. 2: they are read again from the disk."""
    max_adapters: int = 0
    """LoRA adapters that may be loaded at once; 0: none, which costs no memory."""
    max_adapter_rank: int = 16


class VllmHost:
    """Owns the server's processes. They end with this one, even when it is killed."""

    def __init__(self, settings: VllmSettings) -> None:
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self._client: VllmEngine | None = None
        self._lifeline: int | None = None
        self._starting = asyncio.Lock()
        self._partition: Mapping[str, str] = {}
        """What the server that runs was told of its partition, or the next one will be."""
        self._may_stay = True
        self._sleeps = False
        # Whether adapters outlive a sleep has not been tried: with them it is stopped instead.
        self._can_sleep = settings.between_leases == "sleep" and not settings.max_adapters

    @property
    def url(self) -> str:
        """Where the server listens; empty while it does not run."""
        if self._process is not None and self._process.returncode is not None:
            return ""
        return "" if self._client is None else self._client.url

    @property
    def needs_lease(self) -> bool:
        """See EngineHost: where it follows its lease."""
        return self._settings.gpu is not None

    @property
    def loads_on(self) -> bool:
        """See EngineHost: where memory is the engine's for good, and it stays between leases."""
        settings = self._settings
        return settings.gpu is not None and settings.between_leases == "stay" and self._may_stay

    @property
    def takes_adapters(self) -> bool:
        """See EngineHost."""
        return True

    async def start(self, adapters: Sequence[AdapterFile] = ()) -> None:
        """Loads the model and listens on a free loopback port, unless it is stopped meanwhile.

        Raises:
            ModelFileError: vLLM is not installed there, or cannot load the model.
        """
        del adapters  # They are added while it runs.
        async with self._starting:
            if self.url:
                return
            await self.stop()
            try:
                await self._start()
            except ModelFileError:
                if not self._can_sleep or not any(_NO_SLEEP in line for line in self._log_tail()):
                    raise
                log.warning("this vLLM cannot sleep: it is stopped between leases")
                self._can_sleep = False
                await self._start()

    async def add_adapter(self, adapter: AdapterFile) -> None:
        """See EngineHost."""
        if adapter.rank > self._settings.max_adapter_rank:
            raise InvalidInputError(
                "adapter",
                f"its rank is {adapter.rank}, and the engine was started for"
                f" {self._settings.max_adapter_rank}",
                remedy="raise model.vllm.max_adapter_rank",
            )
        await self._running().load_adapter(adapter)

    async def drop_adapter(self, adapter: AdapterFile) -> None:
        """See EngineHost."""
        await self._running().unload_adapter(adapter.id)

    def _running(self) -> VllmEngine:
        if self._client is None:
            raise UnavailableError("the vLLM server does not run")
        return self._client

    def fits(self, lease: Lease) -> bool:
        """See EngineHost: what the server was started with is what the lease asks for."""
        return not self.url or self._variables(lease) == self._partition

    async def occupy(self, lease: Lease) -> None:
        """See EngineHost.

        Raises:
            ConfigError: the lease's partition needs an MPS daemon, and there is none.
            ModelFileError: as `start` does.
        """
        if not self.fits(lease):
            log.info("vLLM is started anew for another partition, %s", lease.profile)
            await self.stop()
        self._partition, access = self._variables(lease), self._settings.gpu
        self._may_stay = access is None or access.may_keep_memory(lease)
        if self.url and self._sleeps and not await self._wake():
            await self.stop()
        await self.start()

    async def vacate(self, until_s: float) -> None:
        """See EngineHost. Stops the server where it cannot sleep, or not in time."""
        stays = self._settings.between_leases == "stay" and self._may_stay
        if stays or not self.url:
            return
        if not self._can_sleep or not await self._sleep(until_s):
            await self.stop()

    def _variables(self, lease: Lease) -> Mapping[str, str]:
        access = self._settings.gpu
        return {} if access is None else access.variables(lease)

    async def _sleep(self, until_s: float) -> bool:
        client, left_s = self._client, until_s - time.time()
        if client is None or left_s <= 0:
            return False
        try:
            async with asyncio.timeout(left_s):
                await client.sleep(self._settings.sleep_level)
        except (AiranError, TimeoutError) as error:
            log.warning("vLLM does not sleep and is stopped: %s", error or "not in time")
            return False
        self._sleeps = True
        return True

    async def _wake(self) -> bool:
        self._sleeps = False
        try:
            async with asyncio.timeout(self._settings.start_timeout_s):
                if self._client is not None:
                    await self._client.wake(self._settings.sleep_level)
        except (AiranError, TimeoutError) as error:
            log.warning("vLLM does not wake up and is started anew: %s", error or "no answer")
            return False
        return True

    async def _start(self) -> None:
        settings, port = self._settings, _free_port()
        read, write = os.pipe()
        try:
            with settings.log_path.open("ab") as output:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "marketplace.engines.lifeline", str(read)),
                    *self._command(port),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=self._environment(),
                    start_new_session=True,
                    pass_fds=(read,),
                )
        except OSError as error:
            os.close(write)
            raise ModelFileError(
                f"vLLM cannot be started: {error}", remedy="correct the engine's settings"
            ) from error
        finally:
            os.close(read)
        self._process, self._lifeline = process, write
        client = VllmEngine(f"http://127.0.0.1:{port}", settings.model)
        try:
            async with asyncio.timeout(settings.start_timeout_s):
                while not await client.health():
                    if self._process is not process:
                        # Stopped meanwhile.
                        await client.aclose()
                        return
                    if process.returncode is not None:
                        raise self._failure(f"ended with status {process.returncode}")
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            await client.aclose()
            await self.stop()
            raise self._failure(f"does not answer within {settings.start_timeout_s:g} s") from None
        except BaseException:
            await client.aclose()
            await self.stop()
            raise
        self._client = client

    def _environment(self) -> dict[str, str]:
        """The partition's variables come last: no setting reaches beyond it."""
        own = {"VLLM_NO_USAGE_STATS": "1"}
        if self._can_sleep:
            own["VLLM_SERVER_DEV_MODE"] = "1"
        if self._settings.max_adapters:
            # Else the server has no routes to load adapters by. It listens on loopback only.
            own["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
        own |= self._settings.env
        inherited = dict(os.environ)
        if self._partition:
            inherited = {key: one for key, one in inherited.items() if not key.startswith(_MPS)}
        return {**inherited, **own, **self._partition}

    def _command(self, port: int) -> list[str]:
        settings = self._settings
        options = {
            "model": str(settings.model_path),
            "served-model-name": settings.model,
            "host": "127.0.0.1",
            "port": str(port),
            "max-model-len": str(settings.n_ctx),
            "max-num-seqs": str(settings.n_slots),
        }
        given = [f"--{name}={value}" for name, value in options.items()]
        if settings.max_adapters:
            given += ["--enable-lora", f"--max-loras={settings.max_adapters}"]
            given += [f"--max-lora-rank={settings.max_adapter_rank}"]
        if self._can_sleep:
            given.append("--enable-sleep-mode")
        return [str(settings.python), "-m", _MODULE, *given, *settings.args]

    def _failure(self, what: str) -> ModelFileError:
        lines = self._log_tail()
        said = next((line for line in reversed(lines) if "Error" in line), "".join(lines[-1:]))
        return ModelFileError(
            f"vLLM {what} with {self._settings.model_path}: {said.strip()}",
            remedy=f"see {self._settings.log_path}",
        )

    def _log_tail(self) -> list[str]:
        with self._settings.log_path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            return file.read().decode(errors="replace").strip().splitlines()

    def disconnect(self) -> None:
        """Does nothing: connections of another process cannot be cut. stop() ends them at once."""

    async def stop(self) -> None:
        """Kills the server's processes; open streams break off. Does nothing if none runs."""
        client, self._client, self._sleeps = self._client, None, False
        process, self._process = self._process, None
        lifeline, self._lifeline = self._lifeline, None
        if client is not None:
            await client.aclose()
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if lifeline is not None:
            os.close(lifeline)

    async def running(self) -> int:
        """Requests that the server has.

        Raises:
            UnavailableError: the server does not run or does not answer.
        """
        return await self._running().running()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])
