"""The rows of a GPU report: one value each, as every bench prints them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from airan.bench.gpu import GpuReport
from airan.bench.rows import Row, row

_SPANS = {"kernels": "kernels", "with_copies": "with copies", "latency": "to the host"}
_PERCENTILES = {"p50_us": "p50", "p99_us": "p99", "p999_us": "p99.9", "max_us": "max"}


def rows(report: GpuReport) -> list[Row]:
    """Returns all rows; slots are compared with their budget."""
    at = report.device
    hardware = f"{at.name}, driver {at.driver}, {at.sm_mhz} MHz, {report.started}"
    out = [row(each["name"], each["gbps"], "Gb/s", hardware) for each in report.coding]
    out += [
        row(f"{_channel(each)} {each['stage']}, {each['cells']} cells", each["us"], "us", hardware)
        for each in report.stages
    ]
    for point in report.bler:
        for who in ("cpu", "gpu"):
            name = f"BLER at {point['snr_db']} dB, {who.upper()}"
            out.append(row(name, point[f"bler_{who}"], "", f"{hardware}, simulated radio"))
    for slots in report.slots:
        out += _of_slots(slots, hardware)
    out += [
        row(
            f"OFDM {each['direction']}, {each['cells']} cells, {each['cells_per_pass']} a pass",
            each["total"],
            "us",
            hardware,
        )
        for each in report.ofdm
    ]
    out += [
        Row(
            each["name"],
            each["value"],
            each["unit"],
            each["peer"],
            each["peer_value"],
            each["ratio"],
            hardware,
        )
        for each in report.peer
    ]
    return out


def _of_slots(slots: dict[str, Any], hardware: str) -> Iterator[Row]:
    beside = "both directions" if slots["is_beside_other"] else "alone"
    load = f"{slots['n_prb']} PRB x {slots['layers']} layers"
    name = f"{_channel(slots)} {slots['cells']} cells, {load}, {slots['n_sms']} SMs, {beside}"
    ran = f"{hardware}, {slots['slots']} slots"
    for span, of_span in _SPANS.items():
        for percentile, of_percentile in _PERCENTILES.items():
            value = slots[span][percentile]
            budget = ("budget", slots["budget_us"])
            yield row(f"{name}, {of_span} {of_percentile}", value, "us", ran, budget)
    yield row(f"{name}, dropped", slots["dropped"], "slots", ran)
    yield row(f"{name}, late on the host", slots["late_share"], "", ran)


def _channel(each: dict[str, Any]) -> str:
    return str(each["channel"]).upper()
