"""Reads the marketplace's figures and events over its admin interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import httpx

from airan.core.errors import AuthError, UnavailableError
from airan.site.snapshot import EngineView, MarketplaceView, RequestsView, TokensView
from airan.site.snapshot_source import MarketEvent

_Parsed = TypeVar("_Parsed")


class HttpMarketReader:
    """`MarketReader` over HTTP; `aclose()` it when done."""

    def __init__(self, gateway_url: str, admin_key: str, timeout_s: float = 2.0) -> None:
        # trust_env off: the gateway is on loopback, a proxy from the environment is not.
        self._client = httpx.AsyncClient(
            base_url=gateway_url,
            headers={"Authorization": f"Bearer {admin_key}"},
            timeout=timeout_s,
            trust_env=False,
        )

    async def stats(self) -> MarketplaceView:
        """What was sold, and what is being worked on.

        Raises:
            UnavailableError: the gateway cannot be reached, or answers something else.
            AuthError: it refuses the admin key.
        """
        return await self._get("/admin/v1/stats", {}, parse_stats)

    async def events(self, after_seq: int) -> Sequence[MarketEvent]:
        """Events with seq > `after_seq`, oldest first.

        Raises:
            UnavailableError, AuthError: as `stats`.
        """
        return await self._get("/admin/v1/events", {"after": after_seq}, parse_events)

    async def aclose(self) -> None:
        """Closes the connections. Idempotent."""
        await self._client.aclose()

    async def _get(
        self, path: str, params: dict[str, int], parse: Callable[[Any], _Parsed]
    ) -> _Parsed:
        try:
            response = await self._client.get(path, params=params)
            if response.status_code in (401, 403):
                raise AuthError(f"the gateway refuses the admin key for {path}")
            response.raise_for_status()
            return parse(response.json())
        except httpx.HTTPStatusError as error:
            code = error.response.status_code
            raise UnavailableError(f"answers {path} with HTTP {code}") from error
        except httpx.TimeoutException as error:
            raise UnavailableError(f"does not answer {path} in time") from error
        except httpx.HTTPError as error:
            raise UnavailableError(f"cannot be reached: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise UnavailableError(f"answers {path} in an unknown form: {error!r}") from error


def parse_stats(values: Any) -> MarketplaceView:
    """The gateway's stats object as a view.

    Raises:
        KeyError, TypeError, ValueError: it has another form.
    """
    requests, tokens, ttft = (
        values["requests"],
        values["tokens"],
        values["time_to_first_token_ms"],
    )
    return MarketplaceView(
        requests=RequestsView(**{name: int(requests[name]) for name in _REQUEST_COUNTS}),
        tokens=TokensView(**{name: int(tokens[name]) for name in ("input", "output", "lost")}),
        tokens_per_s=float(values["tokens_per_s"]),
        revenue_usd=float(values["revenue_usd"]),
        ttft_p50_ms=_optional_float(ttft["p50"]),
        ttft_p99_ms=_optional_float(ttft["p99"]),
        engines=tuple(_engine(engine) for engine in values["engines"]),
    )


_REQUEST_COUNTS = (
    "received",
    "completed",
    "preempted",
    "failed",
    "cancelled",
    "waiting",
    "running",
)


def parse_events(values: Any) -> list[MarketEvent]:
    """The gateway's event page as events.

    Raises:
        KeyError, TypeError, ValueError: it has another form.
    """
    return [
        MarketEvent(
            seq=int(item["seq"]),
            time_s=float(item["time_s"]),
            severity=str(item["severity"]),
            kind=str(item["kind"]),
            message=str(item["message"]),
        )
        for item in values["data"]
    ]


def _engine(values: Any) -> EngineView:
    return EngineView(
        name=str(values["name"]),
        url=str(values["url"]),
        phase=str(values["phase"]),
        lease_id=values["lease_id"] or None,
        running=int(values["running"]),
        max_concurrent=int(values["max_concurrent"]),
    )


def _optional_float(value: Any) -> float | None:
    return None if value is None else float(value)
