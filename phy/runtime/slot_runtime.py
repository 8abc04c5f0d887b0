"""The loop that receives uplink slots as they arrive and never dies of a bad one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from airan.core.clock import Clock
from phy.array import Array
from phy.pusch.receiver import PuschResult
from phy.runtime.slot import SlotRecord, SlotStatus, SlotWindow, WindowBuilder
from phy.runtime.timing import SlotTiming

# Floats of seconds since 1970 are no finer than 0.24 us.
_RESOLUTION_US = 0.5


@dataclass(frozen=True)
class PreparedSlot:
    """An uplink slot's samples, ready before they arrive, and the receiver that is meant for them.

    Attributes:
        grid: complex64[rx, 14, 12 * n_prb].
        receive: turns the grid into a result; the measured part.
        n_prb: PRBs of the allocation.
    """

    grid: Array
    receive: Callable[[Array], PuschResult]
    n_prb: int


class UplinkSource(Protocol):
    """Where the runtime gets its slots from."""

    def prepare(self, slot: int) -> PreparedSlot | None:
        """Makes the samples of `slot` ready; None if nothing is allocated in it. Not measured."""
        ...


class SlotRuntime:
    """Receives the uplink slots of one cell, one after the other, in the calling thread.

    The deadline of a slot counts from its scheduled arrival, so waking up late counts against it.
    The samples are prepared before; where preparation is not done when the slot should arrive, the
    slot clock stands still meanwhile (a stall, counted): simulating a radio is not Layer 1's work.
    """

    def __init__(
        self,
        timing: SlotTiming,
        source: UplinkSource,
        clock: Clock,
        sleep: Callable[[float], None] = time.sleep,
        on_alarm: Callable[[SlotRecord], None] | None = None,
    ) -> None:
        """`sleep` takes seconds; `on_alarm` is called for a slot that is late, is dropped, or comes
        closer to its deadline than `timing.alarm_fraction` allows."""
        self.timing = timing
        self._source = source
        self._clock = clock
        self._sleep = sleep
        self._on_alarm = on_alarm
        self._epoch_s = clock.monotonic_s()
        self._n_done = 0
        self._window = WindowBuilder(timing)

    def now_us(self) -> float:
        """Wall time since slot 0 began, stalls taken off."""
        return (self._clock.monotonic_s() - self._epoch_s) * 1e6

    def run(self, stop: Callable[[], bool], on_slot: Callable[[SlotRecord], None]) -> None:
        """Receives slots until `stop` returns True; `on_slot` gets every record."""
        while not stop():
            record = self.step()
            if record is not None:
                on_slot(record)

    def step(self) -> SlotRecord | None:
        """Waits for the next uplink slot and receives it; None if it had no allocation."""
        slot = self.timing.uplink_slot(self._n_done)
        arrival_us = self.timing.arrival_us(slot)
        prepared, error = self._prepare(slot, arrival_us)
        self._wait_until(arrival_us)
        drop = self.timing.is_to_be_dropped(self._n_done, self.now_us())
        self._n_done += 1
        if prepared is None and error is None:
            self._window.add_idle()
            return None
        if drop:
            record = _unreceived(slot, 0 if prepared is None else prepared.n_prb)
        elif prepared is None:
            record = self._failed(slot, 0, arrival_us, self.now_us(), error)
        else:
            record = self._receive(slot, arrival_us, prepared)
        self._window.add(record)
        if self._on_alarm is not None and not record.latency_us <= self.timing.alarm_us:
            self._on_alarm(record)
        return record

    def close_window(self) -> SlotWindow:
        """Returns the summary since the last call (or the start) and begins a new one."""
        return self._window.close(self.now_us())

    def _prepare(self, slot: int, arrival_us: float) -> tuple[PreparedSlot | None, str | None]:
        started_us = self.now_us()
        prepared, error = None, None
        try:
            prepared = self._source.prepare(slot)
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
        overrun_us = self.now_us() - max(started_us, arrival_us)
        if overrun_us > 0:
            self._epoch_s += overrun_us * 1e-6
            self._window.add_stall()
        return prepared, error

    def _wait_until(self, moment_us: float) -> None:
        # What is left below a clock's resolution would be slept for without end.
        while (left_us := moment_us - self.now_us()) > _RESOLUTION_US:
            self._sleep(left_us * 1e-6)

    def _receive(self, slot: int, arrival_us: float, prepared: PreparedSlot) -> SlotRecord:
        started_us = self.now_us()
        try:
            result = prepared.receive(prepared.grid)
        except Exception as failure:  # The next slot will not wait, whatever this one did.
            error = f"{type(failure).__name__}: {failure}"
            return self._failed(slot, prepared.n_prb, arrival_us, started_us, error)
        return self._record(slot, prepared.n_prb, arrival_us, started_us, result)

    def _record(
        self, slot: int, n_prb: int, arrival_us: float, started_us: float, result: PuschResult
    ) -> SlotRecord:
        ended_us = self.now_us()
        late = self.timing.is_late(ended_us - arrival_us)
        return SlotRecord(
            slot=slot,
            n_prb=n_prb,
            status=SlotStatus.LATE if late else SlotStatus.ON_TIME,
            crc_ok=result.crc_ok,
            latency_us=ended_us - arrival_us,
            processing_us=ended_us - started_us,
            snr_db=result.snr_db,
        )

    def _failed(
        self, slot: int, n_prb: int, arrival_us: float, started_us: float, error: str | None
    ) -> SlotRecord:
        ended_us = self.now_us()
        late = self.timing.is_late(ended_us - arrival_us)
        return SlotRecord(
            slot=slot,
            n_prb=n_prb,
            status=SlotStatus.LATE if late else SlotStatus.ON_TIME,
            crc_ok=False,
            latency_us=ended_us - arrival_us,
            processing_us=ended_us - started_us,
            snr_db=math.nan,
            error=error,
        )


def _unreceived(slot: int, n_prb: int) -> SlotRecord:
    return SlotRecord(
        slot=slot,
        n_prb=n_prb,
        status=SlotStatus.DROPPED,
        crc_ok=False,
        latency_us=math.nan,
        processing_us=0.0,
        snr_db=math.nan,
    )
