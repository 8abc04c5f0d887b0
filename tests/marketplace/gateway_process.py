"""A gateway in a process of its own, to be killed.

Arguments: state folder, engine agent, then hosts that functions and webhooks may call.
"""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from tests.marketplace.site import gateway_settings, running_gateway


async def main() -> None:
    settings = gateway_settings(Path(sys.argv[1]), sys.argv[2])
    hosts = tuple(sys.argv[3:])
    settings = replace(settings, function_hosts=hosts, webhook_hosts=hosts)
    async with running_gateway(settings) as url:
        print(url, flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
