"""A gateway whose work overflows to a peer, and that kills itself at a point of the way.

Arguments: a JSON object with `folder`, `agent`, `peer` (its address), `key_file`, `patience_s`,
`is_site`, `database_url` and `die_at`, a name of POINTS, ON_A_STREAM or empty. It dies once there
is a file `armed` in the folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from marketplace.engines.external import ExternalEngine, ExternalSettings
from marketplace.engines.invoked import InvokedEngine
from marketplace.federation.peers import Federation, Peer
from marketplace.gateway import ModelOffer, Price
from marketplace.store.ledger import Ledger
from marketplace.store.peering import Peering
from marketplace.store.sendings import Sendings
from tests.marketplace.federated import ALWAYS_FULL, PEERS_PRICE
from tests.marketplace.simulated_engine import MODEL, N_CONTEXT
from tests.marketplace.site import gateway_settings, running_gateway

POINTS: dict[str, tuple[type, str, str]] = {
    "before it is noted": (Sendings, "begin", "before"),
    "before it leaves": (InvokedEngine, "begin", "before"),
    "when the peer has it": (InvokedEngine, "begin", "after"),
    "when the peer's name for it is stored": (InvokedEngine, "look", "before"),
    "when the answer is there": (InvokedEngine, "look", "after"),
    "when the cost is stored": (Peering, "note_cost", "after"),
    "before it is billed": (Ledger, "finish", "before"),
    "when it is billed": (Sendings, "end", "before"),
}
ON_A_STREAM = "when a cloud is asked"


def die_at(point: str, armed: Path) -> None:
    """Has this process killed at that point, as nothing in it can see."""
    asked_on_a_stream = {ON_A_STREAM: (ExternalEngine, "answer", "before")}
    owner, name, when = (POINTS | asked_on_a_stream)[point]
    whole = getattr(owner, name)

    def die(now: str) -> None:
        if now == when and armed.exists():
            os.kill(os.getpid(), signal.SIGKILL)

    async def awaited(*args: Any, **kwargs: Any) -> Any:
        die("before")
        found = await whole(*args, **kwargs)
        die("after")
        return found

    def called(*args: Any, **kwargs: Any) -> Any:
        die("before")
        found = whole(*args, **kwargs)
        die("after")
        return found

    setattr(owner, name, awaited if asyncio.iscoroutinefunction(whole) else called)


async def main(asked: dict[str, Any]) -> None:
    folder = Path(asked["folder"])
    if asked["die_at"]:
        die_at(asked["die_at"], folder / "armed")
    theirs = ExternalSettings(
        asked["peer"], MODEL, key_file=Path(asked["key_file"]), read_timeout_s=5.0
    )
    peer = Peer(
        "site-b",
        "eu",
        {MODEL: theirs},
        PEERS_PRICE,
        n_ctx=N_CONTEXT,
        is_site=asked["is_site"],
        patience_s=asked["patience_s"],
    )
    settings = replace(
        gateway_settings(folder, asked["agent"]),
        models=(ModelOffer(MODEL, N_CONTEXT, Price.from_usd(0.01, 0.03)),),
        federation=Federation("site-a", "eu", (peer,)),
        ttft_targets=ALWAYS_FULL,
        database_url=asked["database_url"],
    )
    async with running_gateway(settings) as url:
        print(url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
