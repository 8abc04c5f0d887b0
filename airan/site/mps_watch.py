"""Whether the site's MPS daemon lives, for a process that rests on it and has no time to ask."""

from __future__ import annotations

import contextlib
import os
import select
import time

from airan.site.processes import ProcessRecord
from airan.site.runtime import SiteRuntime
from airan.site.services import MPS, daemon_record, ready_file

_ASK_S = 0.02


class MpsWatch:
    """The daemon as it was found last. A look at a process descriptor takes microseconds; where the
    kernel has none, the process is signalled nothing fifty times a second."""

    def __init__(self, runtime: SiteRuntime) -> None:
        """Looks for it."""
        self._record_path = daemon_record(runtime)
        self._ready_path = ready_file(runtime, MPS.name)
        self._record: ProcessRecord | None = None
        self._pidfd = -1
        self._poll = select.poll()
        self._ask_at_s = 0.0
        self.look()

    @property
    def is_there(self) -> bool:
        """It was found, and has not been seen to end."""
        return self._record is not None

    def look(self) -> None:
        """Finds the daemon that answers now, if none is known to live."""
        if self._record is not None or not self._ready_path.exists():
            return
        record = ProcessRecord.load(self._record_path)
        if record is None or not record.alive():
            return
        with contextlib.suppress(OSError):
            self._pidfd = os.pidfd_open(record.pid)
            self._poll.register(self._pidfd, select.POLLIN)
        self._record = record

    def has_died(self) -> bool:
        """Whether the daemon has ended; says so once, and then there is none until `look`."""
        if self._record is None or not self._has_ended(self._record):
            return False
        self.close()
        return True

    def close(self) -> None:
        """Forgets it."""
        self._record = None
        if self._pidfd >= 0:
            self._poll.unregister(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _has_ended(self, record: ProcessRecord) -> bool:
        if self._pidfd >= 0:
            return bool(self._poll.poll(0))
        now_s = time.monotonic()
        if now_s < self._ask_at_s:
            return False
        self._ask_at_s = now_s + _ASK_S
        try:
            os.kill(record.pid, 0)  # one that has ended is there until the `mps` service notices
        except ProcessLookupError:
            return True
        return False
