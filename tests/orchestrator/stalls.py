"""How long the machine itself stood still, which no promise of the product's in seconds covers."""

from __future__ import annotations

import threading
import time

_LOOK_S = 0.01
_STALL_S = 0.05
"""A thread that wants to wake now and wakes so much later was held up by the machine."""


class Stalls:
    """Adds up, in a thread of its own, by how much it wakes too late.

    Attributes:
        total_s: seconds so far.
    """

    def __init__(self) -> None:
        self.total_s = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Stalls:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        seen_s = time.monotonic()
        while not self._ended.wait(_LOOK_S):
            now_s = time.monotonic()
            self.total_s += max(0.0, now_s - seen_s - _LOOK_S - _STALL_S)
            seen_s = now_s
