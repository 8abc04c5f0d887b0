"""A cell group's counters as Prometheus sees them, and the cost model that comes along."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from airan.core.errors import InvalidInputError
from airan.site.gpu_metrics import GpuSlotsCollector
from phy import PuschConfig
from phy.gpu.cost import shipped
from phy.gpu.cost_features import SlotLoad
from phy.gpu.faults import FaultKind, GpuFaultError
from phy.gpu.group_cost import UplinkCost
from phy.gpu.outcome import Grant
from phy.gpu.uplink import UplinkUe
from tests.phy.gpu.test_cell_group import UE, Bench

H100 = "NVIDIA H100 80GB HBM3"


def value(text: str, name: str) -> float:
    (line,) = [line for line in text.splitlines() if line.startswith(name + " ")]
    return float(line.rpartition(" ")[2])


def test_slots_faults_and_the_alarm_are_exported(rng) -> None:
    bench = Bench(rng)
    registry = CollectorRegistry()
    registry.register(GpuSlotsCollector(bench.group))

    def scrape() -> str:
        return generate_latest(registry).decode()

    bench.group.prepare(4, grants=[Grant(UE)])
    bench.group.uplink.start()
    bench.group.collect(wait=True)
    assert value(scrape(), 'airan_l1_gpu_slots_total{channel="pusch",status="on_time"}') == 1
    assert value(scrape(), "airan_l1_gpu_alarm") == 0
    assert value(scrape(), "airan_l1_gpu_crc_failed_total") == 1, "nothing was sent"

    def refuses():
        raise GpuFaultError(FaultKind.LOST, "cudaErrorNoDevice", "it was being set up")

    bench.group.uplink._lane._make_pipeline = refuses
    bench.pipelines[0].fault = GpuFaultError(FaultKind.STICKY, "cudaErrorIllegalAddress", "x")
    bench.group.uplink.submit(9, [Grant(UE)])
    bench.group.collect(wait=True)
    text = scrape()
    assert value(text, "airan_l1_gpu_alarm") == 1
    assert value(text, 'airan_l1_gpu_faults_total{channel="pusch",kind="sticky"}') == 1
    assert value(text, 'airan_l1_gpu_slots_total{channel="pusch",status="failed"}') == 1
    assert value(text, 'airan_l1_gpu_sms{channel="pusch"}') == 0


def test_the_shipped_model_knows_the_gpu_it_was_measured_on_and_no_other() -> None:
    model = shipped(H100)
    peak = SlotLoad("pusch", 20, 273, 4, 27, 1, 4, 2, 132)
    assert model.slot_us(peak, H100) == pytest.approx(242.0, rel=0.2), "as measured"
    with pytest.raises(InvalidInputError, match="no cost model was measured on 'NVIDIA A100'"):
        shipped("NVIDIA A100")
    with pytest.raises(InvalidInputError, match="not on 'NVIDIA GH200'"):
        model.slot_us(peak, "NVIDIA GH200")


def test_ues_cost_what_they_add_to_a_full_slot() -> None:
    cost = UplinkCost(shipped(H100), H100, n_sms=132)
    large = UplinkUe(0, PuschConfig(n_prb=273, n_layers=4, n_rx=4, mcs_index=27))
    small = UplinkUe(0, PuschConfig(n_prb=50, n_layers=1, n_rx=4, mcs_index=10))
    assert cost.base_us() > 0
    assert 8.0 < cost.ue_us(large) < 16.0, "20 such UEs take some 240 us"
    assert cost.ue_us(small) < cost.ue_us(large) / 4
    assert UplinkCost(shipped(H100), H100, n_sms=32).ue_us(large) > 2.5 * cost.ue_us(large)
