"""A simulated side of a sharing run: invented times, no GPU."""

import json
import sys
import time
from pathlib import Path

order = json.loads(sys.argv[1])
if order["side"] == "device":
    result = {"name": "simulated", "driver": "0", "sm_mhz": 1}
elif order["n_cells"] == 13 and order["side"] == "slots":
    result = {"error": "the simulated GPU fell off"}
else:
    print("ready", flush=True)
    sys.stdin.readline()
    begun = time.perf_counter()
    if order["side"] == "slots":
        slots = [
            (n, "pusch" if n % 5 == 4 else "pdsch", begun + n * 5e-4, 100.0, 110.0, 120.0)
            for n in range(order["n_slots"])
        ]
        names = ("index", "channel", "due_s", "kernels_us", "with_copies_us", "latency_us")
        result = {"slots": [dict(zip(names, one, strict=True)) for one in slots]}
        time.sleep(order["n_slots"] * 5e-4)
    else:
        sys.stdin.read()
        ended = time.perf_counter()
        steps = [begun + n * 0.01 for n in range(int((ended - begun) / 0.01))]
        result = {"ended_s": steps, "tokens": [128] * len(steps), "n_sms": 132}
Path(sys.argv[2]).write_text(json.dumps(result))
