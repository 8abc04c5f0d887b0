"""Checks the front end against its twin on a GPU and times it.

    python -m phy.gpu.bench_front [--ues 1,8,20,40] [--irc]

What a UE of 273 PRB, 4 layers, 4 antennas, 2 DM-RS positions and 64QAM costs at least:

    bytes       samples 0.73 MB, channel written and read 0.84 MB, soft bits 0.94 MB,
                scrambling written and read 0.24 MB         2.75 MB, 0.92 us at 3.0 TB/s
    operations  Wiener filter 27 MFLOP, equaliser 40 MFLOP  67 MFLOP, 1.0 us at 67 TFLOP/s

What the machine code says: the equaliser takes about 1,100 instructions a resource element, the
estimator 4,400 a warp and tile, so that twenty such UEs keep the four schedulers of 132
multiprocessors busy for 30 and 20 us at 1.75 GHz.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cupy as cp
import numpy as np
import numpy.typing as npt

from phy.channel import Channel, ChannelConfig
from phy.gpu import front_end_twin as twin
from phy.gpu.device_program import DeviceProgram
from phy.gpu.front_end_layout import UE_RESULT
from phy.gpu.front_end_plan import front_end_program
from phy.gpu.packed_slot import PackedSlot, pack
from phy.pusch.config import PuschConfig
from phy.pusch.transmitter import PuschTransmitter

_PEAK = PuschConfig(n_prb=273, n_layers=4, n_rx=4, mcs_index=27, mcs_table=1)
_CHECKED = (
    {"n_prb": 52, "n_layers": 4, "n_rx": 4, "mcs_index": 27},
    {"n_prb": 11, "n_layers": 1, "n_rx": 2, "n_cdm_groups_without_data": 1, "mcs_index": 3},
    {"n_prb": 5, "n_layers": 2, "n_rx": 3, "start_prb": 93, "carrier_start_prb": 90},
    {"n_prb": 33, "n_layers": 3, "n_rx": 4, "dmrs_additional_positions": 2, "mcs_index": 12},
    {"n_prb": 20, "n_layers": 4, "n_rx": 8, "dmrs_length": 2, "dmrs_ports": (0, 1, 4, 6)},
    {"n_prb": 9, "n_layers": 2, "n_rx": 2, "dmrs_ports": (1, 3), "n_symbols": 9},
    {"n_prb": 7, "n_layers": 1, "n_rx": 1, "mcs_table": 2, "mcs_index": 22},
    {"n_prb": 40, "n_layers": 4, "n_rx": 16, "mcs_table": 2, "mcs_index": 25},
    {"n_prb": 273, "n_layers": 4, "n_rx": 4, "mcs_index": 27},
)


def check(seed: int = 1, is_irc: bool = False) -> list[str]:
    """Compares the kernels with their twins on a slot of unlike UEs.

    Returns:
        A line for each UE that differs by more than rounding; empty if none does.
    """
    rng = np.random.default_rng(seed)
    configs = [PuschConfig(rnti=i, **each) for i, each in enumerate(_CHECKED, 1)]  # type: ignore[arg-type]
    grids = [_received(config, rng, is_irc) for config in configs]
    slot = pack(configs, grids, is_irc)
    found = _run_once(slot)
    wrong = []
    for index, (ue, config) in enumerate(zip(slot.ues, configs, strict=True)):
        expected, of_twin = _twin(slot, ue)
        own = found["llr"][int(ue["llr_offset"]) :][: expected.size]
        difference = np.abs(own.astype(np.int16) - expected)
        share = float(np.mean(difference > 0))
        differing = [
            name
            for name in UE_RESULT.names or ()
            if not np.allclose(found["results"][index][name], of_twin[name], rtol=5e-3, atol=1e-4)
        ]
        if difference.max() > 3 or share > 0.03 or differing:
            wrong.append(
                f"{config.n_prb} PRB, {config.n_layers} layers, {config.n_rx} rx: soft bits differ "
                f"by up to {difference.max()}, {share:.1%} of them; results differ in {differing}"
            )
    return wrong


def time_all(
    n_ues: Sequence[int] = (1, 8, 20, 40), is_irc: bool = False, n_repeats: int = 50
) -> list[dict[str, float]]:
    """Times slots of peak UEs, replayed as CUDA graphs, each UE with samples of its own.

    Returns:
        For each number of UEs: "ues", and in microseconds the medians "total" (one graph of the
        whole front end) and of each stage alone: "generate", "estimate", "whiten", "equalise",
        "measure".
    """
    rng = np.random.default_rng(1)
    grids = [_received(_PEAK, rng, is_irc) for _ in range(2)]
    rows = []
    for n in n_ues:
        configs = [replace(_PEAK, rnti=i + 1) for i in range(n)]
        # Two channels are enough, but no two cells share samples in memory.
        slot = pack(configs, [grids[i % 2] for i in range(n)], is_irc)
        front_end = _loaded(slot)
        stream = cp.cuda.Stream(non_blocking=True)
        front_end.launch(stream)
        stream.synchronize()
        row = {"ues": float(n), "total": _median_us(front_end, stream, None, n_repeats)}
        for stage in ("generate", "estimate", "whiten", "equalise", "measure"):
            if stage != "whiten" or is_irc:
                row[stage] = _median_us(front_end, stream, stage, n_repeats)
        rows.append(row)
    return rows


def table(rows: Sequence[dict[str, float]]) -> str:
    """The times as text, in microseconds."""
    columns = list(rows[0])
    lines = ["".join(f"{column:>10}" for column in columns)]
    lines += ["".join(f"{row[column]:10.1f}" for column in columns) for row in rows]
    return "\n".join(lines)


def _loaded(slot: PackedSlot) -> DeviceProgram:
    front_end = DeviceProgram(front_end_program(slot.limits))
    for name, values in slot.inputs.items():
        front_end.write(name, values)
    return front_end


def _median_us(front_end: DeviceProgram, stream: Any, stage: str | None, n: int) -> float:
    graph = front_end.capture(stream, 0, None if stage is None else (stage,))
    times = []
    for repeat in range(n + 5):
        start, end = cp.cuda.Event(), cp.cuda.Event()
        start.record(stream)
        graph.launch(stream)
        end.record(stream)
        end.synchronize()
        if repeat >= 5:
            times.append(1e3 * cp.cuda.get_elapsed_time(start, end))
    return float(np.median(times))


def _received(
    config: PuschConfig, rng: np.random.Generator, is_irc: bool
) -> npt.NDArray[np.complex64]:
    channel = ChannelConfig(
        n_rx=config.n_rx,
        n_tx=config.n_layers,
        snr_db=26.0,
        frequency_offset_hz=60.0,
        interference_to_noise_db=10.0 if is_irc else None,
    )
    tb = rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)
    return Channel(channel, rng)(PuschTransmitter(config)(tb))


def _run_once(slot: PackedSlot) -> dict[str, npt.NDArray[np.generic]]:
    front_end = _loaded(slot)
    for name in ("channel", "whitening", "estimate_sums", "symbol_sums"):
        # What no kernel writes must not look like a result.
        front_end.arrays[name].fill(99)
    stream = cp.cuda.Stream(non_blocking=True)
    front_end.launch(stream)
    stream.synchronize()
    return {name: front_end.read(name) for name in ("llr", "results")}


def _twin(slot: PackedSlot, ue: np.void) -> tuple[npt.NDArray[np.int8], np.void]:
    channel, result = twin.estimate(ue, slot.samples, slot.pilots, slot.taps)
    whitening = None
    if ue["is_irc"]:
        channel, matrices, inverse_noise = twin.whiten(ue, slot.samples, slot.pilots, channel)
        whitening = matrices, inverse_noise
    return twin.equalise(ue, slot.samples, channel, slot.scrambling, result, whitening), result


def main() -> None:
    """Prints what differs, then the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ues", default="1,8,20,40")
    parser.add_argument("--irc", action="store_true")
    arguments = parser.parse_args()
    for is_irc in (False, True):
        wrong = check(is_irc=is_irc)
        print(f"front end, irc={is_irc}:", "agrees with its twin" if not wrong else "")
        print("".join(f"  {line}\n" for line in wrong), end="")
    counts = [int(each) for each in arguments.ues.split(",")]
    print(table(time_all(counts, arguments.irc)))


if __name__ == "__main__":
    main()
