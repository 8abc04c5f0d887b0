"""One side of the sharing bench: `python -m airan.bench.sharing.side ORDER FOLDER`.

It prepares, says that it is ready, and then does what each line of its input says, until its end.
Slots: `{"n_slots": 10000, "gear": 0}`, answered when they have run. The AI: `{"goes": true}` and
`{"goes": false}`, which is answered; its gear is the board's. An answer names a file.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from airan.core.errors import AiranError
from airan.core.gpu_config import SLOT_LIMITS


@dataclass(frozen=True)
class SideOrder:
    """What a side is.

    Attributes:
        side: "device" (names the GPU), "slots", "day" (slots under the fast path), "stand-in" or
            "vllm".
        n_cells: the slots' cells, all at peak unless `is_average`.
        is_average: cells at average load.
        gears_sms: SMs of the slots in each gear, None: all.
        board: of the AI's gears; empty: it runs on whatever MPS gives it.
        n_gears: of the board's, how many the fast path may use.
        batch: sequences of the AI.
        step_tokens: most tokens of one step of vLLM; None: its own.
        slot_limits: of the fast path, as `gpu.slot_limits`.
    """

    side: str
    n_cells: int = 20
    is_average: bool = False
    gears_sms: tuple[int | None, ...] = (None,)
    board: str = ""
    n_gears: int = 0
    batch: int = 128
    step_tokens: int | None = None
    slot_limits: tuple[float, float, float] = SLOT_LIMITS


class Channel:
    """What the bench hears from this side, and tells it."""

    def __init__(self, out_fd: int, folder: Path, name: str) -> None:
        """`out_fd` is where answers go; `folder` takes the files they name."""
        self._out_fd = out_fd
        self._stem = folder / name
        self._n = 0

    def commands(self) -> Iterator[dict[str, Any]]:
        """Says that the side is ready; then, each line of the input until its end."""
        self.say({"ready": True})
        for line in sys.stdin:
            yield json.loads(line)

    def answer(self, result: object) -> None:
        """Writes a result to a file of its own and names it."""
        self._n += 1
        path = self._stem.with_name(f"{self._stem.name}-{self._n}.json")
        path.write_text(json.dumps(result), encoding="utf-8")
        self.say({"result": str(path)})

    def say(self, message: dict[str, Any]) -> None:
        """Writes a line."""
        os.write(self._out_fd, json.dumps(message).encode() + b"\n")


def run(order: SideOrder, channel: Channel) -> None:
    """Does it until the input ends.

    Raises:
        AiranError: no GPU, not enough of it, or it fails.
    """
    if order.side == "device":
        from airan.bench.gpu import device

        channel.answer(asdict(device()))
    elif order.side == "slots":
        _slots(order, channel)
    elif order.side == "day":
        from airan.bench.sharing.day_side import run as run_day

        run_day(order, channel)
    else:
        _ai(order, channel)


def _slots(order: SideOrder, channel: Channel) -> None:
    from phy.gpu import bench_slots

    pusch, pdsch = bench_slots.PEAK_PUSCH, bench_slots.PEAK_PDSCH
    if order.is_average:
        pusch, pdsch = bench_slots.AVERAGE_PUSCH, bench_slots.AVERAGE_PDSCH
    slots = bench_slots.SlotRun(pusch, pdsch, order.n_cells, gears_sms=order.gears_sms)
    bench = bench_slots.SlotBench(slots)
    for command in channel.commands():
        traced = bench.trace(int(command["n_slots"]), int(command["gear"]))
        channel.answer({"slots": [asdict(one) for one in traced]})
    bench.close()


def _ai(order: SideOrder, channel: Channel) -> None:
    """Steps in this thread while another one reads the input."""
    load = _load(order)
    goes, ended = threading.Event(), threading.Event()

    def read() -> None:
        for command in channel.commands():
            if command["goes"]:
                goes.set()
            else:
                goes.clear()
        ended.set()
        goes.set()

    threading.Thread(target=read, daemon=True).start()
    while True:
        goes.wait()
        if ended.is_set():
            return
        channel.answer(load(goes.is_set))


def _load(order: SideOrder) -> Callable[[Callable[[], bool]], dict[str, Any]]:
    """Makes steps while told to: when each ended (perf_counter, s), and its new tokens."""
    if order.side == "vllm":
        from airan.bench.sharing.vllm_side import VllmLoad, VllmSide

        vllm = VllmSide(VllmLoad(order.batch, order.step_tokens), order.board)

        def vllm_steps(goes_on: Callable[[], bool]) -> dict[str, Any]:
            n_ended, n_wrong = vllm.n_ended, vllm.n_wrong
            ended_s, tokens = vllm.run(goes_on)
            ended = {"n_ended": vllm.n_ended - n_ended, "n_wrong": vllm.n_wrong - n_wrong}
            return {"ended_s": ended_s, "tokens": tokens, **ended}

        return vllm_steps
    from phy.gpu.bench_decode import DecodeLoad

    decode = DecodeLoad(order.batch)
    step: Callable[[], AbstractContextManager[bool]] | None = None
    if order.board:
        from marketplace.engines.gearbox import Gearbox
        from orchestrator.sm_board import SmBoard

        board = SmBoard.open(Path(order.board))
        decode.divide([(gear.ran_sms, gear.ai_sms) for gear in board.gears])
        gearbox = Gearbox(board, decode)
        gearbox.start()
        step = gearbox.step

    def steps(goes_on: Callable[[], bool]) -> dict[str, Any]:
        ended_s = decode.run(goes_on) if step is None else decode.run(goes_on, step)
        return {"ended_s": ended_s, "tokens": [order.batch] * len(ended_s)}

    return steps


def main() -> int:
    """Runs the order of the first argument; results go to the folder of the second."""
    # What libraries print must not be taken for an answer.
    out_fd = os.dup(1)
    os.dup2(2, 1)
    order = SideOrder(**json.loads(sys.argv[1]))
    channel = Channel(out_fd, Path(sys.argv[2]), order.side)
    try:
        run(order, channel)
    except AiranError as error:
        channel.say({"error": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
