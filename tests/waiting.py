"""Waiting for what other threads and processes do."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(true: Callable[[], object], within_s: float) -> None:
    """Returns once `true()` gives something true; fails after `within_s`."""
    deadline_s = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline_s, f"did not happen within {within_s:.0f} s"
        time.sleep(0.005)
