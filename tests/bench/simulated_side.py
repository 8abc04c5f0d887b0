"""A simulated side of a sharing run: invented times, no GPU."""

import json
import sys
import time
from pathlib import Path

from marketplace.engines.gearbox import Gearbox
from orchestrator.sm_board import SmBoard

order, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
n_answers = 0


def say(message) -> None:
    print(json.dumps(message), flush=True)


def answer(result) -> None:
    global n_answers
    n_answers += 1
    path = folder / f"{order['side']}-{n_answers}.json"
    path.write_text(json.dumps(result))
    say({"result": str(path)})


def slots(command):
    begun = time.perf_counter()
    # The more SMs, the sooner.
    n_sms = order["gears_sms"][command["gear"]] or 132
    us = 100.0 * 132 / n_sms
    rows = [
        (n, "pusch" if n % 5 == 4 else "pdsch", begun + n * 5e-4, us, us + 10, us + 20)
        for n in range(command["n_slots"])
    ]
    names = ("index", "channel", "due_s", "kernels_us", "with_copies_us", "latency_us")
    time.sleep(command["n_slots"] * 5e-4)
    return {"slots": [dict(zip(names, one, strict=True)) for one in rows]}


class NoGpu:
    def shift(self, gear) -> None:
        pass

    def enter(self) -> None:
        pass

    def settle(self) -> None:
        pass


def commands():
    say({"ready": True})
    for line in sys.stdin:
        yield json.loads(line)


if order["side"] == "device":
    answer({"name": "simulated", "driver": "0", "sm_mhz": 1})
elif order["n_cells"] == 13 and order["side"] == "slots":
    say({"error": "the simulated GPU fell off"})
elif order["side"] == "slots":
    for command in commands():
        answer(slots(command))
else:
    board = SmBoard.open(Path(order["board"])) if order["board"] else None
    if board is not None:
        gearbox = Gearbox(board, NoGpu())
        gearbox.start()
    begun = 0.0
    for command in commands():
        if command["goes"]:
            begun = time.perf_counter()
            continue
        sms = 132 if board is None else min(132, board.gears[board.current.gear].ai_sms)
        step = 0.01 * 132 / sms
        steps = [begun + n * step for n in range(int((time.perf_counter() - begun) / step))]
        answer({"ended_s": steps, "tokens": [128] * len(steps)})
