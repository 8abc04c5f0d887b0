"""What a cell group on the GPU has counted, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from phy.gpu.cell_group import CellGroup
from phy.gpu.downlink_group import DownlinkGroup
from phy.gpu.uplink_group import UplinkGroup


class GpuSlotsCollector(Collector):
    """Exports a cell group's counters whenever it is asked.

    `airan_l1_gpu_alarm` is 1 while the group has no GPU: it failed and is being set up again.
    """

    def __init__(self, group: CellGroup) -> None:
        """Exports `group`."""
        self._group = group

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics."""
        uplink, downlink = self._group.uplink, self._group.downlink
        slots = CounterMetricFamily(
            "airan_l1_gpu_slots",
            "Slots by direction and how they fared",
            labels=("channel", "status"),
        )
        faults = CounterMetricFamily(
            "airan_l1_gpu_faults", "Faults of the GPU", labels=("channel", "kind")
        )
        restarts = CounterMetricFamily(
            "airan_l1_gpu_restarts", "Times the GPU was set up again", labels=("channel",)
        )
        n_sms = GaugeMetricFamily(
            "airan_l1_gpu_sms", "Multiprocessors that slots run on", labels=("channel",)
        )
        halves: list[tuple[str, dict[str, int], dict[str, int], UplinkGroup | DownlinkGroup]]
        halves = [("pusch", uplink.counters.slots, uplink.faults, uplink)]
        if downlink is not None:
            halves.append(("pdsch", downlink.slots, downlink.faults, downlink))
        for channel, counted, faulty, half in halves:
            for status, n in counted.items():
                slots.add_metric((channel, str(status)), n)
            for kind, n in faulty.items():
                faults.add_metric((channel, str(kind)), n)
            restarts.add_metric((channel,), half.restarts)
            n_sms.add_metric((channel,), half.n_sms)
        alarm = GaugeMetricFamily("airan_l1_gpu_alarm", "The group has no working GPU")
        alarm.add_metric((), float(any(half.n_sms == 0 for *_, half in halves)))
        tbs = CounterMetricFamily(
            "airan_l1_gpu_transport_blocks", "Uplink transport blocks", labels=("status",)
        )
        for status, n in uplink.counters.tbs.items():
            tbs.add_metric((str(status),), n)
        crc_failed = CounterMetricFamily(
            "airan_l1_gpu_crc_failed", "Uplink transport blocks in time and not decoded"
        )
        crc_failed.add_metric((), uplink.counters.crc_failed)
        lost = CounterMetricFamily(
            "airan_l1_gpu_lost_soft_values", "HARQ processes whose soft values a fault cost"
        )
        lost.add_metric((), uplink.counters.lost_soft_values)
        yield from (slots, faults, restarts, n_sms, alarm, tbs, crc_failed, lost)
