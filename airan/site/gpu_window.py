"""What the slots of all cells on the GPU came to since the last report."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from phy.gpu.outcome import SentSlot, SlotOutcome, UeStatus
from phy.runtime.slot import SlotRecord, SlotStatus, SlotWindow, WindowBuilder
from phy.runtime.timing import SlotTiming


@dataclass(frozen=True)
class DownlinkCounts:
    """Downlink slots of a window."""

    slots: int = 0
    late: int = 0
    dropped: int = 0
    kernels_us: float = 0.0
    """Time on the GPU, together."""
    elapsed_us: float = 0.0
    """The window's length."""

    @property
    def busy_share(self) -> float:
        """Part of the time in which they had kernels on the GPU."""
        return self.kernels_us / self.elapsed_us if self.elapsed_us > 0 else 0.0


@dataclass
class GpuWindow:
    """Collects slots; latencies and their histogram are the uplink's, whose budget is one of its
    edges, and the downlink's slots are counted beside them."""

    timing: SlotTiming
    budget_us: dict[str, float]
    _uplink: WindowBuilder = field(init=False)
    _downlink: DownlinkCounts = field(default_factory=DownlinkCounts)

    def __post_init__(self) -> None:
        # Reports and their histogram hold slots against what makes them late.
        limit_us = self.budget_us["pusch"]
        self._uplink = WindowBuilder(replace(self.timing, budget_us=limit_us))

    def start(self, now_us: float) -> None:
        """Begins the first window."""
        self._uplink.started_us = now_us

    def add_received(self, outcome: SlotOutcome) -> None:
        """Counts an uplink slot; one without grants as idle."""
        if not outcome.tbs:
            self._uplink.add_idle()
            return
        is_received = not math.isnan(outcome.latency_us)
        late = is_received and outcome.latency_us > self.budget_us["pusch"]
        status = SlotStatus.LATE if late else SlotStatus.ON_TIME
        self._uplink.add(
            SlotRecord(
                slot=outcome.slot,
                n_prb=sum(tb.grant.ue.config.n_prb for tb in outcome.tbs),
                status=status if is_received else SlotStatus.DROPPED,
                crc_ok=all(tb.crc_ok for tb in outcome.tbs),
                latency_us=outcome.latency_us,
                processing_us=outcome.kernels_us if is_received else 0.0,
                snr_db=math.nan,
            )
        )

    def add_sent(self, sent: SentSlot) -> None:
        """Counts a downlink slot."""
        is_made = not math.isnan(sent.latency_us)
        so_far = self._downlink
        self._downlink = replace(
            so_far,
            slots=so_far.slots + 1,
            late=so_far.late + (sent.status is UeStatus.LATE),
            dropped=so_far.dropped + (not is_made),
            kernels_us=so_far.kernels_us + (sent.kernels_us if is_made else 0.0),
        )

    def add_missed(self, channel: str) -> None:
        """Counts a slot that was never begun: the host was away when it was due."""
        if channel == "pdsch":
            self.add_sent(SentSlot(-1, UeStatus.DROPPED))
            return
        nan = math.nan
        self._uplink.add(SlotRecord(-1, 0, SlotStatus.DROPPED, False, nan, 0.0, nan))

    def close(self, now_us: float) -> tuple[SlotWindow, DownlinkCounts]:
        """Returns both directions' and begins anew."""
        elapsed_us = now_us - self._uplink.started_us
        downlink = replace(self._downlink, elapsed_us=elapsed_us)
        self._downlink = DownlinkCounts()
        return self._uplink.close(now_us), downlink
