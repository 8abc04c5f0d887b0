"""SMs that cells need, by the cost model measured on an H100."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airan.core.errors import CapacityError, InvalidInputError
from orchestrator.cell_demand import (
    BUSY_LIMIT,
    DOWNLINK_SLOTS,
    PDSCH_BUDGET_US,
    PERIOD_US,
    PUSCH_BUDGET_US,
    CellConfig,
    CellDemand,
    CellLoad,
)

PEAK = CellConfig()
H100 = CellDemand.of("H100-SXM5-80GB", 132)


def cells(count: int, load: float) -> list[CellLoad]:
    return [CellLoad(PEAK, load)] * count


def test_twenty_peak_cells_take_less_than_half_of_an_h100_and_forty_nearly_all() -> None:
    # Issue-sized figures: the kernels were measured at 20 and 40 peak cells on this GPU.
    assert 32 < H100.sms(cells(20, 1.0)) <= 66
    assert 100 < H100.sms(cells(40, 1.0)) <= 132
    with pytest.raises(CapacityError, match="132 SMs"):
        H100.sms(cells(60, 1.0))


def test_no_cell_and_idle_cells_need_nothing() -> None:
    assert H100.sms([]) == 0
    assert H100.sms(cells(20, 0.0)) == 0


def test_what_is_granted_keeps_every_budget() -> None:
    for count in (1, 7, 20, 33):
        granted = H100.sms(cells(count, 0.8))
        uplink_us, downlink_us = H100.times_us(cells(count, 0.8), granted)
        assert uplink_us <= PUSCH_BUDGET_US
        assert downlink_us <= PDSCH_BUDGET_US
        assert uplink_us + DOWNLINK_SLOTS * downlink_us <= BUSY_LIMIT * PERIOD_US


@given(loads=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30), more=st.floats(0.0, 1.0))
@settings(max_examples=60)
def test_more_load_never_needs_fewer_sms(loads: list[float], more: float) -> None:
    lighter = [CellLoad(PEAK, load) for load in loads]
    heavier = [CellLoad(PEAK, max(load, more)) for load in loads]
    assert H100.sms(lighter) <= H100.sms(heavier) <= H100.sms([*heavier, CellLoad(PEAK, 0.5)])


def test_a_product_with_the_same_chip_is_assumed_alike_and_others_are_refused() -> None:
    gh200 = CellDemand.of("GH200-96GB", 132)
    assert gh200.assumed
    assert not H100.assumed
    assert gh200.sms(cells(20, 1.0)) == H100.sms(cells(20, 1.0))
    with pytest.raises(InvalidInputError, match="B200"):
        CellDemand.of("B200-180GB", 148)


def test_a_wrong_load_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"\[0, 1\]"):
        H100.sms(cells(1, 1.5))
