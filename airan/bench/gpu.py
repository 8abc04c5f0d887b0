"""`airan bench phy --gpu`: coding, slots of many cells at the radio's pace, OFDM, the cost model,
and Sionna on the same GPU in the same run."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from airan.bench import sionna_peer
from airan.core.errors import InvalidInputError, UnavailableError

SECTIONS = ("coding", "stages", "bler", "slots", "ofdm", "sionna", "cost")
_QUERY = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit"
_PEER_BATCHES = (1, 20)
_PEER_ROUNDS = 7
_PEER_SNR_DB = 35.0


@dataclass(frozen=True)
class GpuOptions:
    """What to measure.

    Attributes:
        sections: of SECTIONS.
        n_slots: slots of 0.5 ms of each run.
        cells: numbers of cells of the runs.
        sionna: measure Sionna too.
    """

    sections: tuple[str, ...] = SECTIONS
    n_slots: int = 10_000
    cells: tuple[int, ...] = (1, 8, 20, 40)
    sionna: bool = True

    def __post_init__(self) -> None:
        for section in self.sections:
            if section not in SECTIONS:
                known = ", ".join(SECTIONS)
                raise InvalidInputError("section", f"must be one of {known}, got {section}")
        if not all(1 <= n <= 100 for n in self.cells):
            raise InvalidInputError("cells", f"must lie in [1, 100], got {self.cells}")
        if self.n_slots < 100:
            raise InvalidInputError("slots", f"must be at least 100, got {self.n_slots}")


@dataclass(frozen=True)
class GpuDevice:
    """What was measured on.

    Attributes:
        name: of the GPU.
        driver: its version.
        sm_mhz, max_sm_mhz, memory_mhz: clocks while a kernel ran just before, and the highest.
        power_limit_w: of the board.
        n_sms: multiprocessors.
    """

    name: str
    driver: str
    sm_mhz: int
    max_sm_mhz: int
    memory_mhz: int
    power_limit_w: float
    n_sms: int = 0


@dataclass
class GpuReport:
    """Everything measured; a section that was not wanted is empty.

    Attributes:
        device: the GPU.
        started: when, ISO 8601.
        coding: rows of name, microseconds, Gb/s and note.
        stages: rows of channel, cells, stage and us, each stage alone.
        bler: rows of the CPU's and the GPU's block error rates on the same simulated slots.
        slots: rows of the runs at the radio's pace, all times in us.
        ofdm: rows of direction, cells and us.
        peer: rows that compare with Sionna.
        cost_samples: what the cost model is fitted to: loads, and their us.
        cost_model: as `phy.gpu.cost.GpuCostModel.to_json` writes it.
    """

    device: GpuDevice
    started: str
    coding: list[dict[str, Any]] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    bler: list[dict[str, Any]] = field(default_factory=list)
    slots: list[dict[str, Any]] = field(default_factory=list)
    ofdm: list[dict[str, Any]] = field(default_factory=list)
    peer: list[dict[str, Any]] = field(default_factory=list)
    cost_samples: list[dict[str, Any]] = field(default_factory=list)
    cost_model: str | None = None


def device() -> GpuDevice:
    """Names the GPU, after keeping it busy for a moment so that its clocks are those of work.

    Raises:
        GpuUnavailableError: no CuPy or no GPU.
        UnavailableError: nvidia-smi does not answer.
    """
    from phy.gpu.module import require_cupy

    cupy = require_cupy()
    busy = cupy.zeros(2**26, cupy.float32)
    for _ in range(2000):
        busy += 1
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits", "-i", "0"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(f"nvidia-smi does not answer: {error}") from error
    name, driver, sm, most, memory, watts = (each.strip() for each in answer.stdout.split(","))
    n_sms = int(cupy.cuda.runtime.getDeviceProperties(0)["multiProcessorCount"])
    return GpuDevice(name, driver, int(sm), int(most), int(memory), float(watts), n_sms)


def measure(options: GpuOptions, on_progress: Callable[[str], None]) -> GpuReport:
    """Measures the sections one after the other.

    Raises:
        GpuUnavailableError: no CuPy or no GPU.
        WrongResultError: something timed gave a wrong result.
    """
    report = GpuReport(device(), datetime.now(UTC).isoformat(timespec="seconds"))
    for name, section in _SECTIONS.items():
        if name in options.sections:
            section(report, options, on_progress)
    return report


def _coding(report: GpuReport, _options: GpuOptions, on_progress: Callable[[str], None]) -> None:
    from phy.gpu.bench_coding import bench_coding

    for timing in bench_coding():
        report.coding.append(asdict(timing))
        on_progress(timing.name)


def _stages(report: GpuReport, _options: GpuOptions, on_progress: Callable[[str], None]) -> None:
    from phy.gpu.bench_stages import time_stages

    for n_cells in (20, 40):
        report.stages += time_stages(n_cells)
        on_progress(f"stages of {n_cells} cells")


def _bler(report: GpuReport, _options: GpuOptions, on_progress: Callable[[str], None]) -> None:
    from phy.gpu.bench_bler import compare

    for point in compare():
        report.bler.append(asdict(point))
        on_progress(f"BLER at {point.snr_db} dB")


def _slots(report: GpuReport, options: GpuOptions, on_progress: Callable[[str], None]) -> None:
    from phy.gpu.bench_slots import slot_runs, time_slots

    for run in slot_runs(options.n_slots, options.cells):
        for times in time_slots(run):
            report.slots.append(asdict(times))
        on_progress(f"{run.directions}, {run.n_cells} cells on {times.n_sms} SMs")


def _ofdm(report: GpuReport, _options: GpuOptions, on_progress: Callable[[str], None]) -> None:
    from phy.gpu import bench_ofdm

    for n_cells in (1, 8, 20, 40):
        report.ofdm += bench_ofdm.time_ofdm(n_cells)
        on_progress(f"OFDM, {n_cells} cells")


def _sionna(report: GpuReport, options: GpuOptions, on_progress: Callable[[str], None]) -> None:
    if options.sionna:
        for row in _peer_rows(report):
            report.peer.append(row)
            on_progress(row["name"])


def _cost(report: GpuReport, _options: GpuOptions, on_progress: Callable[[str], None]) -> None:
    from phy.gpu import bench_cost, cost

    samples = []
    loads = bench_cost.pusch_loads() + bench_cost.partition_loads() + bench_cost.pdsch_loads()
    for load, us in bench_cost.measure(loads):
        samples.append((load, us))
        report.cost_samples.append({**asdict(load), "us": us})
        on_progress(f"cost of {load.n_cells} cells of {load.n_prb} PRB on {load.n_sms} SMs")
    at = report.device
    model = cost.fit(samples, at.name, at.driver, report.started[:10])
    report.cost_model = model.to_json()


_SECTIONS: dict[str, Callable[[GpuReport, GpuOptions, Callable[[str], None]], None]] = {
    "coding": _coding,
    "stages": _stages,
    "bler": _bler,
    "slots": _slots,
    "ofdm": _ofdm,
    "sionna": _sionna,
    "cost": _cost,
}


def _peer_rows(report: GpuReport) -> Iterator[dict[str, Any]]:
    """Sionna's PUSCH receiver and LDPC decoder on the same GPU, beside ours of this run."""
    from phy.gpu.bench_slots import PEAK_PUSCH, simulated

    sionna_peer.use_device("cuda:0")
    sent = simulated(PEAK_PUSCH, _PEER_SNR_DB, 1)
    noise_var = 10 ** (-_PEER_SNR_DB / 10)
    peer = sionna_peer.PuschPeer(PEAK_PUSCH)
    for batch in _PEER_BATCHES:
        grids = np.stack([sent[0][1]] * batch)
        slot_us = _median_us(partial(peer.receive, grids, noise_var)) / batch
        ours = [row for row in report.slots if row["cells"] == batch and _is_peak_pusch(row)]
        ours_us = min((row["kernels"]["p50_us"] / batch for row in ours), default=None)
        yield {
            "name": f"PUSCH receive, a slot, {batch} at a time",
            "unit": "us",
            "peer": sionna_peer.version(),
            "peer_value": slot_us,
            "value": ours_us,
            "ratio": None if ours_us is None else slot_us / ours_us,
        }
    yield _ldpc_row(report)


def _ldpc_row(report: GpuReport) -> dict[str, Any]:
    n_bits, n_blocks, rate = 8424, 2640, 0.8
    peer = sionna_peer.LdpcPeer(n_bits, round(n_bits / rate), 1, 10)
    rng = np.random.default_rng(1)
    llr = rng.normal(4.0, 2.0, (n_blocks, round(n_bits / rate))).astype(np.float32)
    gbps = n_bits * n_blocks / _median_us(partial(peer.decode, llr)) / 1e3
    ours = [row["gbps"] for row in report.coding if row["name"].startswith("decode BG1 Z=384")]
    return {
        "name": "LDPC decode, K=8424, R=0.8, 10 iterations, 2,640 code blocks",
        "unit": "Gb/s",
        "peer": sionna_peer.version(),
        "peer_value": gbps,
        "value": ours[0] if ours else None,
        "ratio": ours[0] / gbps if ours else None,
    }


def _is_peak_pusch(row: dict[str, Any]) -> bool:
    return bool(row["channel"] == "pusch" and row["n_prb"] == 273 and row["n_sms"] >= 132)


def _median_us(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(_PEER_ROUNDS):
        begun_s = time.perf_counter()
        work()  # its result comes back to the host
        times.append((time.perf_counter() - begun_s) * 1e6)
    return float(np.median(times))
