"""vLLM as a process group of its own: started, watched and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from airan.core.errors import InvalidInputError, ModelFileError, UnavailableError
from marketplace.adapters.adapter import AdapterFile
from marketplace.engines.vllm import VllmEngine

_POLL_S = 0.2
_LOG_TAIL_BYTES = 4000
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
    """Further variables, e.g. CUDA_VISIBLE_DEVICES with the partition's UUID."""
    start_timeout_s: float = 600.0
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

    @property
    def url(self) -> str:
        """Where the server listens; empty while it does not run."""
        if self._process is not None and self._process.returncode is not None:
            return ""
        return "" if self._client is None else self._client.url

    @property
    def takes_adapters(self) -> bool:
        """See EngineHost."""
        return True

    async def start(self, adapters: Sequence[AdapterFile] = ()) -> None:
        """Loads the model and listens on a free loopback port, unless it is stopped meanwhile.

        Raises:
            ModelFileError: vLLM is not installed there, or cannot load the model.
            InvalidInputError: it cannot load an adapter.
        """
        async with self._starting:
            if not self.url:
                await self.stop()
                await self._start()
                for one in adapters:
                    await self.add_adapter(one)

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

    async def _start(self) -> None:
        settings, port = self._settings, _free_port()
        read, write = os.pipe()
        try:
            with settings.log_path.open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "marketplace.engines.lifeline", str(read)),
                    *self._command(port),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={
                        **os.environ,
                        "VLLM_NO_USAGE_STATS": "1",
                        **self._adapter_env(),
                        **settings.env,
                    },
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
        return [str(settings.python), "-m", _MODULE, *given, *settings.args]

    def _adapter_env(self) -> dict[str, str]:
        """Without it the server has no routes to load adapters by; it listens on loopback only."""
        return {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"} if self._settings.max_adapters else {}

    def _failure(self, what: str) -> ModelFileError:
        with self._settings.log_path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").strip().splitlines()
        said = next((line for line in reversed(lines) if "Error" in line), "".join(lines[-1:]))
        return ModelFileError(
            f"vLLM {what} with {self._settings.model_path}: {said.strip()}",
            remedy=f"see {self._settings.log_path}",
        )

    def disconnect(self) -> None:
        """Does nothing: connections of another process cannot be cut. stop() ends them at once."""

    async def stop(self) -> None:
        """Kills the server's processes; open streams break off. Does nothing if none runs."""
        client, self._client = self._client, None
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
