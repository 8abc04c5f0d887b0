"""The downlink program emulated on the CPU, against phy's own transmitter."""

from __future__ import annotations

import numpy as np
import pytest

from airan.core.errors import InvalidInputError
from phy import PdschConfig, PdschTransmitter
from phy.gpu.downlink import DownlinkTables, downlink_limits, downlink_program
from phy.gpu.downlink_layout import DownlinkUe, SendGrid
from tests.phy.gpu.emulation import emulate_program, zeros

WEIGHTS = ((0.5, 0.5j), (0.5, -0.5j), (-0.5j, 0.5), (0.5, 0.5))


def by_prg(n_groups: int) -> tuple:
    """Other weights for each PRG: WEIGHTS turned."""
    turned = np.exp(0.7j * np.arange(n_groups))[:, None, None] * np.array(WEIGHTS)
    return tuple(tuple(map(tuple, each.tolist())) for each in turned)


GRIDS = (SendGrid(4, 24), SendGrid(2, 11))
UES = {
    "four layers": (0, {"n_prb": 24, "n_layers": 4, "mcs_table": 2, "mcs_index": 20}),
    "data beside DM-RS": (0, {"n_prb": 24, "n_cdm_groups_without_data": 1, "mcs_index": 3}),
    "DM-RS type 2": (
        0,
        {"n_prb": 10, "start_prb": 3, "carrier_n_prb": 24, "carrier_start_prb": 0}
        | {"n_layers": 3, "dmrs_type": 2}
        | {"n_cdm_groups_without_data": 2, "dmrs_ports": (0, 1, 3), "mcs_index": 9},
    ),
    "double symbol": (
        1,
        {"n_prb": 11, "n_layers": 2, "dmrs_length": 2, "dmrs_ports": (1, 5), "mcs_index": 9},
    ),
    "precoded": (0, {"n_prb": 24, "n_layers": 2, "precoding_weights": WEIGHTS, "mcs_index": 17}),
    "precoded by PRG": (
        0,
        {"n_prb": 21, "start_prb": 1, "carrier_n_prb": 24, "carrier_start_prb": 0}
        | {"n_layers": 2, "prg_size": 4}
        | {"precoding_weights": by_prg(6), "mcs_index": 11},
    ),
    "scattered PRBs": (
        0,
        {"n_prb": 5, "prbs": (52, 53, 57, 70, 73), "carrier_n_prb": 24, "carrier_start_prb": 50}
        | {"n_layers": 2, "mcs_index": 14},
    ),
    "late start": (1, {"n_prb": 4, "start_prb": 7, "carrier_n_prb": 11, "start_symbol": 2}
                   | {"carrier_start_prb": 0}
                   | {"n_symbols": 9, "mcs_index": 5}),
}  # fmt: skip


def ue_of(name: str, rnti: int = 7) -> DownlinkUe:
    cell, fields = UES[name]
    return DownlinkUe(cell, PdschConfig(rnti=rnti, n_id=13, **fields))


def blocks(ues, rng) -> list[np.ndarray]:
    return [rng.integers(0, 2, ue.config.tb_size_bits, dtype=np.uint8) for ue in ues]


def expected_grids(ues, tbs, slot_number) -> list[np.ndarray]:
    grids = [np.zeros((g.n_antennas, 14, 12 * g.n_prb), np.complex64) for g in GRIDS]
    for ue, tb in zip(ues, tbs, strict=True):
        sent = PdschTransmitter(ue.config)(tb, slot_number)
        grids[ue.cell][: len(sent)] += sent
    return grids


def grids_of(arrays) -> list[np.ndarray]:
    grids, at = [], 0
    for grid in GRIDS:
        samples = arrays["grids"][at : at + grid.n_samples].astype(np.float32)
        at += grid.n_samples
        grids.append(samples.view(np.complex64).reshape(grid.n_antennas, 14, 12 * grid.n_prb))
    return grids


def send(tables, program, arrays, ues, rng, slot_number) -> None:
    tbs = blocks(ues, rng)
    tables.fill(arrays, ues, [np.packbits(tb) for tb in tbs], slot_number)
    emulate_program(program, arrays)
    for found, wanted in zip(grids_of(arrays), expected_grids(ues, tbs, slot_number), strict=True):
        assert np.abs(found - wanted).max() < 2e-3


@pytest.mark.parametrize("name", UES)
def test_grids_are_those_of_the_transmitter(name, rng) -> None:
    ues = [ue_of(name)]
    limits = downlink_limits(GRIDS, [ues])
    program = downlink_program(limits)
    arrays = zeros(program)
    for stale in ("symbols", "sent_pilots", "scrambling", "grids"):
        arrays[stale][...] = 99
    send(DownlinkTables(limits), program, arrays, ues, rng, slot_number=13)


def test_slots_of_several_ues_and_cells_leave_nothing_of_the_one_before(rng) -> None:
    together = [ue_of("DM-RS type 2", 1), ue_of("late start", 2), ue_of("scattered PRBs", 3)]
    together[2] = DownlinkUe(
        0,
        PdschConfig(
            n_prb=4,
            prbs=(0, 15, 16, 22),
            carrier_n_prb=24,
            carrier_start_prb=0,
            rnti=3,
            mcs_index=8,
        ),
    )
    alone = [ue_of("precoded", 4)]
    limits = downlink_limits(GRIDS, [together, alone])
    program, tables = downlink_program(limits), DownlinkTables(limits)
    arrays = zeros(program)
    for slot_number, ues in enumerate((together, alone, [], together[1:], together)):
        send(tables, program, arrays, ues, rng, slot_number)


@pytest.mark.parametrize(
    ("ues", "named"),
    [
        (["four layers", "precoded"], "another UE's PRBs|room"),
        (["data beside DM-RS", "data beside DM-RS"], "another UE's PRBs|room"),
        (["double symbol"], "base graph"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(ues, named, rng) -> None:
    prepared = [ue_of("four layers"), ue_of("data beside DM-RS")]
    limits = downlink_limits(GRIDS, [prepared[:1], prepared[1:] * 2])
    program = downlink_program(limits)
    arrays = zeros(program)
    before = {name: array.copy() for name, array in arrays.items()}
    wanted = [ue_of(name, index + 1) for index, name in enumerate(ues)]
    packed = [np.packbits(tb) for tb in blocks(wanted, rng)]
    with pytest.raises(InvalidInputError, match=named):
        DownlinkTables(limits).fill(arrays, wanted, packed, 0)
    for name, array in arrays.items():
        assert array.tobytes() == before[name].tobytes(), name


def test_a_ue_needs_its_cells_carrier_and_antennas() -> None:
    with pytest.raises(InvalidInputError, match="carrier of 24 PRB"):
        downlink_limits(GRIDS, [[DownlinkUe(1, ue_of("four layers").config)]])
    with pytest.raises(InvalidInputError, match="4 antenna ports"):
        downlink_limits([SendGrid(2, 24)], [[ue_of("precoded")]])
    with pytest.raises(InvalidInputError, match="cell"):
        downlink_limits(GRIDS, [[DownlinkUe(2, ue_of("precoded").config)]])


def test_a_transport_block_of_another_size_is_refused() -> None:
    ue = ue_of("precoded")
    limits = downlink_limits(GRIDS, [[ue]])
    with pytest.raises(InvalidInputError, match=r"tbs\[0\]"):
        DownlinkTables(limits).fill(
            zeros(downlink_program(limits)), [ue], [np.zeros(3, np.uint8)], 0
        )


@pytest.mark.gpu
@pytest.mark.parametrize("name", UES)
def test_grids_are_those_of_the_transmitter_on_a_gpu(cp, name, rng) -> None:
    from phy.gpu.device_program import DeviceProgram

    ues = [ue_of(name)]
    limits = downlink_limits(GRIDS, [ues])
    device = DeviceProgram(downlink_program(limits))
    tbs = blocks(ues, rng)
    side = device.sides[0]
    DownlinkTables(limits).fill(side.inputs, ues, [np.packbits(tb) for tb in tbs], 5)
    stream = cp.cuda.Stream(non_blocking=True)
    side.copy_in(stream)
    device.launch(stream)
    side.copy_out(stream)
    stream.synchronize()
    found = grids_of({"grids": side.outputs["grids"]})
    for grid, wanted in zip(found, expected_grids(ues, tbs, 5), strict=True):
        assert np.abs(grid - wanted).max() < 2e-3
