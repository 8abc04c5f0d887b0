"""Sites of a federation, all in one process: real gateways and agents, simulated engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from marketplace.dispatch import TtftTargets
from marketplace.engines.external import ExternalSettings
from marketplace.federation.peers import Federation, Peer
from marketplace.gateway import ModelOffer, Price, build_app
from tests.marketplace.simulated_engine import MODEL, N_CONTEXT, continued, simulated_agent
from tests.marketplace.site import ADMIN_KEY, eventually, gateway_settings, running_app
from tests.marketplace.site import new_key as new_key

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
TARGETS = TtftTargets(priority=0.3, default=0.3, flex=0.3)
ALWAYS_FULL = TtftTargets(priority=1e-9, default=1e-9, flex=1e-9)
"""Nothing is in time, as soon as it is known how long things take."""
PEERS_PRICE = Price.from_usd(0.005, 0.02)
N_ANSWER = 8
N_LONG = 45
WARM = "warm it all up"


def answer_to(prompt: str, n_tokens: int = N_ANSWER) -> str:
    """What the simulated engine of any site says."""
    return continued(prompt.encode(), n_tokens)


@dataclass
class Site:
    """A running site."""

    url: str
    folder: Path
    http: httpx.AsyncClient
    grpc_port: int = 0

    async def ask(self, key: str, prompt: str, *, n: int = N_ANSWER, **headers: str) -> Any:
        """The answer to a chat of one message."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": n,
        }
        return await self.http.post(
            "/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}", **named}
        )

    async def put(self, path: str, **body: Any) -> httpx.Response:
        """Asks the admin API."""
        return await self.http.put(f"/admin/v1/{path}", json=body, headers=ADMIN)

    async def get(self, path: str) -> Any:
        """What the admin API shows."""
        answer = await self.http.get(f"/admin/v1/{path}", headers=ADMIN)
        answer.raise_for_status()
        return answer.json()

    async def warm(self) -> None:
        """Has the speed measured."""
        answer = await self.ask(await new_key(self.url, "warmer"), WARM)
        assert answer.status_code == 200

    async def fill(self, key: str) -> list[asyncio.Task[Any]]:
        """Has every slot busy for long, with speeds measured: what comes now is too late."""
        await self.ask(key, WARM, n=N_LONG)
        asked = [asyncio.create_task(self.ask(key, f"long {n}", n=N_LONG)) for n in range(2)]

        async def busy() -> bool:
            return bool((await self.get("stats"))["requests"]["running"] >= 2)

        await eventually(busy)
        return asked


@asynccontextmanager
async def site(
    folder: Path,
    federation: Federation,
    *,
    token_s: float = 0.04,
    targets: TtftTargets = TARGETS,
) -> AsyncIterator[Site]:
    """A site with one simulated engine of two slots."""
    folder.mkdir(exist_ok=True)
    offer = ModelOffer(MODEL, N_CONTEXT, Price.from_usd(0.01, 0.03))
    async with simulated_agent(token_s, 2) as agent:
        settings = replace(
            gateway_settings(folder, agent),
            models=(offer,),
            federation=federation,
            ttft_targets=targets,
            grpc_port=0,
        )
        app = build_app(settings)
        async with (
            running_app(app) as url,
            httpx.AsyncClient(base_url=url, timeout=30) as http,
        ):

            async def ready() -> bool:
                return bool((await http.get("/readyz")).json()["status"] == "ready")

            await eventually(ready)
            yield Site(url, folder, http, app.state.grpc_port)


def peer(
    folder: Path, name: str, url: str, region: str, key: str = "sk-any", **changes: Any
) -> Peer:
    """A peer at that address, up to and with /v1."""
    path = folder / f"{name}.key"
    path.write_text(key)
    settings = ExternalSettings(url, MODEL, key_file=path, read_timeout_s=5.0)
    terms: dict[str, Any] = {"price": PEERS_PRICE, "n_ctx": N_CONTEXT} | changes
    return Peer(name, region, {MODEL: settings}, **terms)


async def peers_ready(one: Site, n_peers: int = 1) -> None:
    """Waits until the site has seen so many of its peers."""

    async def seen() -> bool:
        found = (await one.get("peers"))["data"]
        return sum(row["phase"] == "ready" for row in found) >= n_peers

    await eventually(seen)


async def peer_key(one: Site, tenant: str, policy: str = "stay") -> str:
    """The key of another site at this one."""
    key = await new_key(one.url, tenant)
    assert (await one.put(f"tenants/{tenant}/peer", peer=True)).status_code == 200
    assert (await one.put(f"tenants/{tenant}/policy", policy=policy)).status_code == 200
    return key
