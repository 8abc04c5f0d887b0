"""A small site in processes, each of which can be killed and started again."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import sqlalchemy as sa

from airan.core.ports import free_ports
from marketplace.store.connect import open_database, reading
from marketplace.store.schema import jobs
from tests.marketplace.site import ADMIN_KEY
from tests.orchestrator import postgres

ROOT = Path(__file__).resolve().parents[2]
MOMENT_S = 0.3
GATEWAYS = ("gateway", "second", "third")
CONTROL = """
import asyncio, sys, time
from pathlib import Path
from orchestrator.policy import Policy
from orchestrator.service import ControlSettings, serve

async def main(folder, port):
    policy = Policy(kind="static", ran_share=0.4, notice_ms=5000)
    settings = ControlSettings("edge-1", Path(folder), 1.0, port=int(port), policy=policy)
    await serve(settings, asyncio.Event())

asyncio.run(main(*sys.argv[1:]))
"""
GATEWAY = """
import sys
from pathlib import Path
import uvicorn
from marketplace.asgi import bind
from marketplace.gateway import GatewaySettings, ModelOffer, Price, build_app

folder, url, port, engine, key = sys.argv[1:]
offer = ModelOffer("simulated", 2048, Price.from_usd(0.01, 0.03))
settings = GatewaySettings(
    (offer,), (engine,), Path(folder), database_url=url, admin_key=key, engine_wait_s=30.0
)
app = build_app(settings)
listener = bind("127.0.0.1", int(port), "the gateway", "port")
config = uvicorn.Config(app, log_level="warning", access_log=False)
uvicorn.Server(config).run(sockets=[listener])
"""


@dataclass(frozen=True)
class Moment:
    """When something happened, at some time between the two."""

    from_s: float
    until_s: float

    def is_near(self, time_s: float) -> bool:
        return self.from_s - MOMENT_S < time_s < self.until_s + MOMENT_S


class Market:
    """The processes of a small site, each of which can be killed and started again."""

    def __init__(self, folder: Path, database_url: str, postgres_socket: str) -> None:
        self.database_url, self.postgres_socket = database_url, postgres_socket
        self._folder = folder
        control, engine, *gateways = free_ports(2 + len(GATEWAYS))
        self.urls = [f"http://127.0.0.1:{port}" for port in gateways]
        self.url = self.urls[0]
        agent = f"http://127.0.0.1:{engine}"
        self._commands: dict[str, list[str]] = {
            "control": ["-c", CONTROL, str(folder), str(control)],
            "engine": [
                *("-m", "tests.marketplace.simulated_engine"),
                *(f"127.0.0.1:{control}", str(engine)),
            ],
        }
        for name, port in zip(GATEWAYS, gateways, strict=True):
            state = str(folder / name)
            arguments = [state, database_url, str(port), agent, ADMIN_KEY]
            self._commands[name] = ["-c", GATEWAY, *arguments]
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._https = [httpx.AsyncClient(base_url=url, timeout=30) for url in self.urls]
        self.http = self._https[0]

    async def start(self, *names: str) -> None:
        for name in names:
            with (self._folder / f"{name}.log").open("ab") as log:
                self._running[name] = await asyncio.create_subprocess_exec(
                    *(sys.executable, *self._commands[name]), cwd=ROOT, stdout=log, stderr=log
                )

    async def kill(self, name: str) -> Moment:
        """Kills it and starts it again, as the supervisor of a site would; when it was killed."""
        if name == "database":
            begun_s = time.time()
            await asyncio.to_thread(postgres.kill, self.postgres_socket)
            killed = Moment(begun_s, time.time())
            await asyncio.to_thread(postgres.start, self.postgres_socket)
            return killed
        killed = await self.stop(name)
        await self.start(name)
        return killed

    async def stop(self, name: str) -> Moment:
        """Kills it for good; when that was."""
        begun_s = time.time()
        self._running[name].kill()
        await self._running[name].wait()
        return Moment(begun_s, time.time())

    def signal(self, name: str, number: int) -> None:
        self._running[name].send_signal(number)

    async def ended(self, name: str) -> int:
        """The exit code of one that ends by itself."""
        async with asyncio.timeout(30):
            return await self._running[name].wait()

    def http_for(self, number: int) -> httpx.AsyncClient:
        """Of one of the gateways that run."""
        names = [name for name in GATEWAYS if self._runs(name)]
        return self._https[GATEWAYS.index(names[number % len(names)])]

    def _runs(self, name: str) -> bool:
        return (name == "gateway" and "second" not in self._running) or self._alive(name)

    def _alive(self, name: str) -> bool:
        return name in self._running and self._running[name].returncode is None

    async def ready(self) -> bool:
        return await self.is_ready(self.http)

    async def is_ready(self, http: httpx.AsyncClient) -> bool:
        try:
            return bool((await http.get("/readyz")).json().get("status") == "ready")
        except (httpx.HTTPError, ValueError):
            return False

    async def close(self) -> None:
        for http in self._https:
            await http.aclose()
        for process in self._running.values():
            if process.returncode is None:
                process.kill()
            await process.wait()

    def logs(self) -> str:
        return "\n".join(f"{path.name}:\n{path.read_text()}" for path in self._folder.glob("*.log"))


def settled(url: str) -> bool:
    """Whether no job of that database is open."""
    engine = open_database(url)
    try:
        with reading(engine) as db:
            still = sa.select(jobs.c.id).where(jobs.c.state.in_(("queued", "running", "preempted")))
            return db.execute(still).first() is None
    finally:
        engine.dispose()
