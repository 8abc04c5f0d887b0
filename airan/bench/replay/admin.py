"""The operator's side of a replay's gateway, over HTTP."""

from __future__ import annotations

from types import TracebackType
from typing import Any, cast

import httpx

from marketplace.money import Price

_PAGE = 1000


class Admin:
    """Calls /admin/v1; an answer that is not 2xx raises httpx.HTTPStatusError."""

    def __init__(self, url: str, key: str) -> None:
        self._http = httpx.AsyncClient(
            base_url=f"{url}/admin/v1",
            headers={"authorization": f"Bearer {key}"},
            trust_env=False,
            timeout=30.0,
        )

    async def __aenter__(self) -> Admin:
        """Open."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def set_price(self, model: str, tier: str, price: Price) -> None:
        """What a tier costs from now on."""
        body = {
            "model": model,
            "tier": tier,
            "input_micro_usd_per_1k": price.input_micro_usd_per_1k,
            "output_micro_usd_per_1k": price.output_micro_usd_per_1k,
        }
        (await self._http.post("/prices", json=body)).raise_for_status()

    async def add_tenant(self, name: str, weight: int) -> str:
        """Makes a tenant; a key of it."""
        (await self._http.post("/tenants", json={"name": name})).raise_for_status()
        weighed = await self._http.put(f"/tenants/{name}/weight", json={"weight": weight})
        weighed.raise_for_status()
        made = await self._http.post("/keys", json={"tenant": name, "name": "replay"})
        return str(made.raise_for_status().json()["key"])

    async def get(self, path: str, **query: str | float) -> dict[str, Any]:
        """An answer's JSON."""
        answer = await self._http.get(path, params=query)
        return cast(dict[str, Any], answer.raise_for_status().json())

    async def charges(self) -> list[dict[str, Any]]:
        """All transactions of the books, with their entries."""
        found: dict[str, dict[str, Any]] = {}
        from_s = 0.0
        while True:
            page = (await self.get("/books/transactions", start_time=from_s, limit=_PAGE))["data"]
            n_before = len(found)
            found.update((row["id"], row) for row in page)
            if len(page) < _PAGE or len(found) == n_before:
                return list(found.values())
            from_s = page[-1]["time_s"]
