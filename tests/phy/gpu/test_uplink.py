"""The uplink program: its tables, and the whole of it emulated on the CPU."""

from __future__ import annotations

import numpy as np
import pytest

from airan.core.errors import InvalidInputError
from phy import PuschConfig
from phy.gpu import decode_plan, uplink
from phy.gpu.decode_limits import coded_tb, decode_limits
from phy.gpu.device_group import write_idle_uplink
from phy.gpu.front_end_layout import pack_grid
from phy.gpu.packed_slot import PackedSlot
from phy.gpu.transport import SoftBuffer, plan_reception
from phy.nr.sch import SchConfig
from tests.phy.gpu.emulation import emulate_program, zeros
from tests.phy.gpu.slots import Slot, simulate

ALLOCATIONS = [
    {"n_prb": 14, "n_layers": 2, "n_rx": 4, "mcs_index": 12},
    {"n_prb": 12, "n_layers": 1, "n_rx": 2, "mcs_index": 20},
]


def jobs_of(slot: Slot, buffer_units: int) -> list[uplink.UplinkJob]:
    """The simulated UEs, each in a cell and with a soft buffer of its own."""
    packed: PackedSlot = slot.packed
    jobs = []
    for index, config in enumerate(slot.configs):
        ue = uplink.UplinkUe(index, config)
        record = uplink.tuned_record(ue, packed.tunings[index], 0)
        jobs.append(uplink.UplinkJob(ue, record, SoftBuffer(index * buffer_units)))
    return jobs


def write(arrays: dict[str, np.ndarray], slot: Slot) -> None:
    """Samples and taps into the program's buffers."""
    samples = np.concatenate([pack_grid(grid).reshape(-1, 2) for grid in slot.grids])
    arrays["samples"][: len(samples)] = samples
    arrays["taps"][: len(slot.packed.taps)] = slot.packed.taps


def tb_of(arrays: dict[str, np.ndarray], placed: decode_plan.Placed, index: int, n: int):
    at = int(placed.tb_at[index])
    return np.unpackbits(arrays["tb_bytes"][at : at + -(-n // 8)])[:n]


def test_grids_become_transport_blocks_and_no_slot_sees_the_one_before(rng) -> None:
    slot = simulate(ALLOCATIONS, rng, snr_db=30.0)
    cells = [uplink.CellGrid(each["n_rx"], each["n_prb"]) for each in ALLOCATIONS]
    ues = [uplink.UplinkUe(i, config) for i, config in enumerate(slot.configs)]
    limits = uplink.uplink_limits(cells, [ues], n_soft_buffers=2)
    program = uplink.uplink_program(limits)
    arrays = zeros(program)
    for name in ("llr", "soft", "bits", "tb_bytes", "crc_ok"):
        arrays[name][...] = 99
    write(arrays, slot)
    jobs = jobs_of(slot, limits.decode.soft_buffer_units)
    tables = uplink.UplinkTables(limits)
    placed = tables.fill(arrays, jobs, slot_number=0)
    emulate_program(program, arrays)
    assert arrays["crc_ok"].tolist() == [1, 1]
    for index, tb in enumerate(slot.tbs):
        assert np.array_equal(tb_of(arrays, placed, index, tb.size), tb)

    # A slot without any UE, as graphs are captured with.
    write_idle_uplink(limits, arrays)
    assert not arrays["ues"]["n_subcarriers"].any()
    assert (arrays["tb_of_block"] == -1).all()
    arrays["crc_ok"][...] = 99
    emulate_program(program, arrays)
    assert arrays["crc_ok"].tolist() == [99, 99]

    # The next slot has the second UE only.
    arrays["crc_ok"][...] = arrays["tb_bytes"][...] = 99
    placed = tables.fill(arrays, jobs[1:], slot_number=0)
    emulate_program(program, arrays)
    assert arrays["crc_ok"].tolist() == [1, 99]
    assert np.array_equal(tb_of(arrays, placed, 0, slot.tbs[1].size), slot.tbs[1])


def test_tables_are_those_of_the_plan_made_for_one_slot_alone() -> None:
    configs = [
        SchConfig(16 * 1024 + 8, 0.6, 6, 2, 12 * 2300),
        SchConfig(848, 0.5, 2, 1, 1700),
        SchConfig(9224, 0.85, 8, 1, 8 * 3000, rv=2),
        SchConfig(16 * 1024 + 8, 0.6, 6, 2, 12 * 2300),
    ]
    plan = plan_reception(configs)
    limits = decode_limits([configs], n_soft_buffers=1)
    program = decode_plan.decode_program(limits)
    inputs = {
        n: np.zeros(program.buffers[n].shape, program.buffers[n].dtype) for n in program.inputs
    }
    starts = [tb.soft_at for tb in plan.receptions]
    tbs = [coded_tb(config) for config in configs]
    shape = decode_plan.decode_shape(limits, tbs, [0] * len(tbs))
    decode_plan.fill(inputs, shape, starts)
    np.testing.assert_array_equal(inputs["receptions"], plan.table)
    for name in ("tb_of_block", "llr_at", "tb_weight"):
        np.testing.assert_array_equal(inputs[name], getattr(plan.blocks, name), err_msg=name)
    counts = [group.blocks.stop - group.blocks.start for group in plan.groups]
    assert inputs["decoder_control"][:, 0].tolist() == counts


def test_a_retransmission_is_combined_and_finds_a_group_with_rows_enough(rng) -> None:
    first = SchConfig(3752, 0.9, 2, 1, 4200)
    second = SchConfig(3752, 0.9, 2, 1, 4200, rv=2)
    limits = decode_limits([[first], [second]], n_soft_buffers=1, spare_rows=True)
    program = decode_plan.decode_program(limits)
    arrays = zeros(program)
    from phy.nr import sch

    tb = rng.integers(0, 2, first.tb_size_bits, dtype=np.uint8)
    n_filled = 0
    verdicts = []
    for config in (first, second):
        sent = 1.0 - 2.0 * sch.encode(tb, config)
        noisy = 12 * (sent + 0.75 * rng.standard_normal(sent.size))
        arrays["llr"][: sent.size] = np.clip(np.rint(noisy), -127, 127)
        tbs = [coded_tb(config)]
        shape = decode_plan.decode_shape(limits, tbs, [n_filled])
        decode_plan.fill(arrays, shape, [0])
        emulate_program(program, arrays)
        verdicts.append(int(arrays["crc_ok"][0]))
        n_filled = int(shape.placed.n_filled[0])
    assert verdicts == [0, 1]
    assert np.array_equal(np.unpackbits(arrays["tb_bytes"])[: tb.size], tb)


def test_a_ue_beyond_its_cells_carrier_is_refused() -> None:
    ue = uplink.UplinkUe(0, PuschConfig(**(ALLOCATIONS[0] | {"n_prb": 20})))
    with pytest.raises(InvalidInputError, match="carrier"):
        uplink.uplink_limits([uplink.CellGrid(4, 14)], [[ue]], n_soft_buffers=1)


def test_ues_on_the_same_prbs_are_refused_and_neighbours_are_not() -> None:
    grid = uplink.CellGrid(4, 28)
    fields = ALLOCATIONS[0] | {"carrier_n_prb": 28, "carrier_start_prb": 0}
    first, second, across = (
        uplink.UplinkUe(0, PuschConfig(**fields, start_prb=start)) for start in (0, 14, 7)
    )
    limits = uplink.uplink_limits([grid], [[first, second]], n_soft_buffers=2)
    arrays = zeros(uplink.uplink_program(limits))

    def fill(*ues: uplink.UplinkUe) -> None:
        jobs = [uplink.UplinkJob(ue, ue.record.view(np.int32), SoftBuffer(0)) for ue in ues]
        uplink.UplinkTables(limits).fill(arrays, jobs, slot_number=0)

    fill(first, second)
    with pytest.raises(InvalidInputError, match="shares PRBs of cell 0"):
        fill(first, across)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"n_prb": 20, "carrier_n_prb": 20}, "20 PRB, room is for 14"),
        ({"mcs_index": 25}, "room"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(rng, change, named) -> None:
    config = PuschConfig(**ALLOCATIONS[0])
    cells = [uplink.CellGrid(4, 14)]
    limits = uplink.uplink_limits(cells, [[uplink.UplinkUe(0, config)]], n_soft_buffers=1)
    program = uplink.uplink_program(limits)
    arrays = zeros(program)
    other = uplink.UplinkUe(0, PuschConfig(**(ALLOCATIONS[0] | change)))
    job = uplink.UplinkJob(other, other.record.view(np.int32), SoftBuffer(0))
    before = {name: array.copy() for name, array in arrays.items()}
    with pytest.raises(InvalidInputError, match=named):
        uplink.UplinkTables(limits).fill(arrays, [job], slot_number=0)
    for name, array in arrays.items():
        assert array.tobytes() == before[name].tobytes(), name
