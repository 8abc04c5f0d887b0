"""One side of a run, in a process of its own: `python -m airan.bench.sharing.side ORDER RESULT`.

It prints `ready`, starts at a line on its input, and writes a JSON file when it is done. The AI
side ends at the end of its input.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from airan.core.errors import AiranError

READY = "ready"
_ready_fd = 1


@dataclass(frozen=True)
class SideOrder:
    """What a side does.

    Attributes:
        side: "device" (names the GPU), "slots", "decode" (the stand-in) or "vllm".
        n_cells: the slots' cells, all at peak unless `is_average`.
        is_average: cells at average load.
        n_slots: slots of 0.5 ms.
        slots_sms: SMs of the slots' green context, whose rest is the AI's; None: no contexts.
        ai_sms: of that rest; None: all.
        batch: sequences of the AI.
        step_tokens: most tokens of one step of vLLM; None: its own.
    """

    side: str
    n_cells: int = 20
    is_average: bool = False
    n_slots: int = 10_000
    slots_sms: int | None = None
    ai_sms: int | None = None
    batch: int = 128
    step_tokens: int | None = None


def run(order: SideOrder) -> dict[str, Any]:
    """Does it; what it gave, for JSON.

    Raises:
        AiranError: there is no GPU, or it fails.
    """
    if order.side == "device":
        from airan.bench.gpu import device

        return asdict(device())
    if order.side == "slots":
        return {"slots": _slots(order)}
    return _vllm(order) if order.side == "vllm" else _decode(order)


def _slots(order: SideOrder) -> list[dict[str, Any]]:
    from phy.gpu import bench_slots
    from phy.gpu.module import require_cupy

    require_cupy()
    loads = (bench_slots.PEAK_PUSCH, bench_slots.PEAK_PDSCH)
    if order.is_average:
        loads = (bench_slots.AVERAGE_PUSCH, bench_slots.AVERAGE_PDSCH)
    what = bench_slots.SlotRun(*loads, order.n_cells, order.slots_sms, order.n_slots)
    return [asdict(one) for one in bench_slots.trace_slots(what, _wait_to_start)]


def _decode(order: SideOrder) -> dict[str, Any]:
    from phy.gpu.bench_decode import DecodeLoad

    load = DecodeLoad(order.batch, order.slots_sms, order.ai_sms)
    ended_s = load.run(_until_the_end())
    return {"ended_s": ended_s, "tokens": [order.batch] * len(ended_s), "n_sms": load.part.n_sms}


def _vllm(order: SideOrder) -> dict[str, Any]:
    from airan.bench.sharing.vllm_side import VllmLoad, VllmSide

    side = VllmSide(VllmLoad(order.batch, order.step_tokens))
    ended_s, tokens = side.run(_until_the_end())
    return {"ended_s": ended_s, "tokens": tokens, "version": side.version}


def _until_the_end() -> Callable[[], bool]:
    """Waits for the start; then says whether the input has not ended."""
    _wait_to_start()
    ended = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    return lambda: not ended.is_set()


def _wait_to_start() -> None:
    os.write(_ready_fd, f"{READY}\n".encode())
    sys.stdin.readline()


def main() -> int:
    """Runs the order of the first argument; writes the result, or the error, to the second."""
    global _ready_fd
    # What libraries print must not fill a pipe that nobody reads.
    _ready_fd = os.dup(1)
    os.dup2(2, 1)
    order = SideOrder(**json.loads(sys.argv[1]))
    try:
        result = run(order)
    except AiranError as error:
        result = {"error": str(error)}
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")
    return 1 if "error" in result else 0


if __name__ == "__main__":
    raise SystemExit(main())
