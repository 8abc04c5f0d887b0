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
    answer({"name": "simulated", "driver": "0", "sm_mhz": 1, "n_sms": 132})
elif order["n_cells"] == 13 and order["side"] == "slots":
    say({"error": "the simulated GPU fell off"})
elif order["side"] == "day":
    board = SmBoard.open(Path(order["board"]))
    for command in commands():
        rows, changes, begun = [], [], time.perf_counter()
        until = time.monotonic() + 3600 * command["hours"] / command["speed"]
        n = 0
        while time.monotonic() < until:
            gear = (n // 100) % 2
            board.acknowledge("ran", board.order(gear, 0).generation)
            if n % 100 == 0:
                changes.append([time.monotonic(), gear, "a simulated reason"])
            channel = "pusch" if n % 5 == 4 else "pdsch"
            us = [None] * 3 if n == 7 else [400.0 if n == 8 else 100.0, 150.0, 200.0]
            rows.append([time.monotonic(), channel, gear, 3, *us])
            n += 1
            time.sleep(5e-4)
        during = [begun, time.perf_counter()]
        answer({"slots": rows, "changes": changes, "gears": [16, 64], "during": during})
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
        step = 0.01 * 132 / max(1, sms)
        steps = [begun + n * step for n in range(int((time.perf_counter() - begun) / step))]
        answer({"ended_s": steps, "tokens": [128] * len(steps), "n_ended": 5, "n_wrong": 0})
