"""A gateway in a process of its own, to be killed."""

import asyncio
import sys
from pathlib import Path

from tests.marketplace.site import gateway_settings, running_gateway


async def main() -> None:
    async with running_gateway(gateway_settings(Path(sys.argv[1]), sys.argv[2])) as url:
        print(url, flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
