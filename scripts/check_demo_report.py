"""Checks what a demo wrote: every promised key, every slot and request accounted for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

KEYS = (
    "simulated",
    "slots",
    "slots_late",
    "slot_budget_us",
    "requests_completed",
    "requests_preempted",
    "tokens_generated",
    "tokens_lost",
    "utilisation",
    "utilisation_ran_only",
    "revenue_usd",
)


def problems(report: dict[str, Any], plot: Path) -> list[str]:
    """What is wrong with a report and its plot; empty when nothing is."""
    found = [f"{key} is missing" for key in KEYS if key not in report]
    if found:
        return found
    checks = {
        "it must be labelled simulated": report["simulated"] is True,
        "slots were decoded": report["slots"] > 0,
        "every request completed": report["requests_completed"] == report["requests_received"],
        # How many are open when the radio takes the GPU is chance in so short a day; that a
        # preempted one goes on word for word is an end-to-end test's.
        "preempted requests are counted": report["requests_preempted"] >= 0,
        "no token was lost": report["tokens_lost"] == 0,
        "AI added to the utilisation": report["utilisation"] > report["utilisation_ran_only"],
        "something was earned": report["revenue_usd"] > 0,
        "the plot is a PNG": plot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n",
    }
    return [f"not so: {what}" for what, holds in checks.items() if not holds]


if __name__ == "__main__":
    wrong = problems(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
    print("\n".join(wrong) or "the demo's report is as promised")
    raise SystemExit(bool(wrong))
