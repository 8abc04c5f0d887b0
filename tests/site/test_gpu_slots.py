"""Layer 1's process on a GPU, over pipelines that take a law's time: no GPU is needed."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest

from airan.core import config
from airan.core.config import SiteConfig
from airan.core.ran_config import CellSizeConfig
from airan.site import gpu_slots
from airan.site import runtime as site_runtime
from airan.site.gpu_radio import SimulatedRadio
from airan.site.gpu_slots import MOST_BEHIND, SLOT_S, SlotLoop
from airan.site.l1_gpu import GpuLayer1, board_of, fast_path_settings, least_gear
from airan.site.l1_reports import ran_sms
from airan.site.slot_journal import Fate, JournalReader, SlotJournal
from orchestrator.cell_demand import CellConfig, CellDemand
from orchestrator.fast_path import FastPath, FastPathSettings
from orchestrator.gear_costs import GearCosts
from orchestrator.sm_board import NO_ORDER, Gear, SmBoard
from orchestrator.views import GpuView, PartitionView, SlotReport
from phy.gpu.faults import FaultKind, GpuFaultError
from tests.site.paced_pipeline import PacedGroup

SMALL = CellSizeConfig(n_prb=12, n_layers=1, n_rx=2, uplink_mcs=16, downlink_mcs=10)
GEARS = (16, 64, 132)
TOP = len(GEARS) - 1
SETTINGS = FastPathSettings(GEARS, 132)
GEARS_OF_SITE = (16, 24, 40, 64, 80, 96, 132)
PORTS = {
    f"AIRAN_PORTS__{name}": "0" for name in ("GATEWAY", "DASHBOARD", "CONTROL", "ENGINE", "METRICS")
}


@pytest.fixture(scope="module")
def costs() -> GearCosts:
    return GearCosts(CellDemand.of("H100-SXM5-80GB", 132), CellConfig(), 4, GEARS)


class Rig:
    """Two cells, a loop, and its board."""

    def __init__(self, path: Path, costs: GearCosts, **options: object) -> None:
        decodes = bool(options.pop("decodes", False))
        self.radio = SimulatedRadio(SMALL, 2, seed=3)
        self.radio.loads = (1.0, 1.0)
        self.work = {"pusch": 1000.0, "pdsch": 100.0}
        laws = {
            channel: lambda gear, channel=channel: self.work[channel] / GEARS[gear]
            for channel in self.work
        }
        self.paced = PacedGroup(self.radio, laws, decodes=decodes)
        self.board = board_of(path, SETTINGS)
        self.fast = FastPath(SETTINGS)
        self.loop = SlotLoop(
            self.paced.group,
            self.radio,
            self.fast,
            self.board,
            costs,
            now_s=self.paced.clock,
            **options,  # type: ignore[arg-type]
        )
        self.loop.begin()

    def run(self, n_slots: int) -> None:
        for _ in range(n_slots):
            self.loop.step()

    def started_in(self) -> list[int]:
        return [gear for pipeline in self.paced.made for gear in pipeline.started_in]


@pytest.fixture
def rig(tmp_path: Path, costs: GearCosts) -> Rig:
    return Rig(tmp_path / "board", costs)


def test_all_slots_of_both_directions_run_at_the_radios_pace(tmp_path: Path, costs) -> None:
    rig = Rig(tmp_path / "board", costs, decodes=True)
    started_s = rig.paced.clock.now_s
    rig.run(26)
    uplink, downlink = rig.loop.close_window()
    assert (uplink.slots + uplink.idle, downlink.slots) == (5, 21)
    assert (uplink.late, uplink.dropped, uplink.crc_failed) == (0, 0, 0)
    assert (downlink.late, downlink.dropped) == (0, 0)
    assert rig.paced.clock.now_s - started_s == pytest.approx(26 * SLOT_S, abs=3e-4)
    assert 0.0 < uplink.busy_share < 0.2
    assert 0.0 < downlink.busy_share < 0.2


def test_quiet_slots_give_the_engine_its_part_and_the_board_says_so(rig: Rig) -> None:
    assert rig.board.current.gear == TOP
    rig.run(400)
    assert rig.loop.gear == 0
    assert set(rig.started_in()[-20:]) == {0}
    order = rig.board.current
    assert (order.gear, order.step_tokens) == (0, SETTINGS.step.least_tokens)
    assert rig.board.acknowledged("ran") == order.generation


def test_the_engine_may_grow_only_when_no_slot_runs_in_the_former_gear(rig: Rig) -> None:
    seen = []
    acknowledge = rig.board.acknowledge

    def noting(side: str, generation: int) -> None:
        gears = {one.gear for one in rig.loop._under_way.values()}
        seen.append((rig.board.current.gear, gears))
        acknowledge(side, generation)

    rig.board.acknowledge = noting  # type: ignore[method-assign]
    rig.run(400)
    assert {gear for gear, _ in seen} == {1, 0}
    assert all(gears <= {gear} for gear, gears in seen)


def test_a_load_step_moves_the_gear_up_and_late_slots_end(rig: Rig) -> None:
    rig.run(400)
    assert rig.loop.gear == 0
    rig.loop.close_window()
    # 2,000 us on 16 SMs, 242 us on 132, for the uplink; 400 and 49 us for the downlink.
    rig.work |= {"pusch": 32_000.0, "pdsch": 6400.0}
    rig.run(20)
    uplink, downlink = rig.loop.close_window()
    assert uplink.late + downlink.late > 0
    assert rig.loop.alarm
    assert rig.loop.gear > 0
    rig.run(200)
    uplink, downlink = rig.loop.close_window()
    assert (uplink.late, uplink.dropped, downlink.late, downlink.dropped) == (0, 0, 0, 0)


def test_grants_that_are_too_dear_for_the_gear_are_met_before_their_first_slot(
    tmp_path: Path,
) -> None:
    # By the model the slots of two peak cells are short, and those of twenty are not.
    model = CellDemand.of("H100-SXM5-80GB", 132)
    dear = GearCosts(model, CellConfig(), 20, GEARS)
    rig = Rig(tmp_path / "board", dear)
    rig.work["pdsch"] = 1600.0
    rig.radio.loads = (0.0, 0.0)
    rig.run(400)
    assert rig.loop.gear == 0
    of_two = dear.us_by_gear
    dear.us_by_gear = lambda channel, n: of_two(channel, 20 if n else 0)  # type: ignore[method-assign]
    rig.radio.loads = (1.0, 1.0)
    rig.run(1)
    assert rig.loop.gear > 0
    assert "comes" in rig.fast.reason
    assert rig.loop.alarm is False


def test_the_engines_steps_set_its_token_budget(rig: Rig) -> None:
    rig.run(400)
    before = rig.board.current.step_tokens
    for _ in range(30):
        rig.board.acknowledge("ai", rig.board.current.generation)
        rig.board.beat(2000, rig.board.current.step_tokens, rig.board.current.gear)
        rig.run(1)
    assert rig.board.current.step_tokens > before


def test_a_plan_that_gives_the_ran_more_holds_at_once(rig: Rig) -> None:
    rig.run(400)
    rig.loop.bound(1)
    assert rig.loop.gear == rig.board.current.gear == 1
    rig.run(400)
    assert rig.loop.gear == 1


def test_a_gpu_that_fails_is_filled_and_shifted_again_and_slots_go_on(rig: Rig) -> None:
    rig.run(400)
    n_before = len(rig.paced.made)
    rig.paced.break_once(GpuFaultError(FaultKind.STICKY, "700", "a slot ran"))
    rig.run(10)
    assert any(alarm.fault for alarm in rig.paced.alarms)  # type: ignore[attr-defined]
    rig.loop.is_empty = True
    rig.run(40)
    assert len(rig.paced.made) > n_before
    rig.loop.close_window()
    rig.run(50)
    uplink, downlink = rig.loop.close_window()
    assert (uplink.slots, downlink.slots) == (10, 40)
    assert (uplink.dropped, downlink.dropped) == (0, 0)


def test_a_host_that_was_away_gives_up_the_slots_it_missed(rig: Rig) -> None:
    rig.run(10)
    rig.loop.close_window()
    rig.paced.clock.now_s += 40 * SLOT_S
    rig.run(10)
    uplink, downlink = rig.loop.close_window()
    missed = uplink.dropped + downlink.dropped
    assert MOST_BEHIND < missed <= 41
    assert rig.loop.alarm


def test_judged_by_the_gpu_a_slow_host_moves_no_gear(tmp_path: Path, costs) -> None:
    gears = {}
    limits_us = []
    for judged_by in ("latency", "gpu"):
        rig = Rig(tmp_path / judged_by, costs, judged_by=judged_by)
        rig.work["pdsch"] = 6000.0
        # The host comes late to every slot, by more than a downlink slot may take.
        for _ in range(300):
            rig.loop.step()
            rig.paced.clock.now_s += 0.0004
        gears[judged_by] = rig.fast.gear
        # What reports hold the latency against is what makes a slot late: an operator that took
        # leases back at a p99 near the kernels' own budget would do so for the host's time.
        window, _ = rig.loop.close_window()
        limits_us.append((window.budget_us, window.budget_us in window.edges_us))
    assert gears["latency"] == TOP
    assert gears["gpu"] < TOP
    assert limits_us == [(1250.0, True), (1850.0, True)]


def test_judged_by_the_gpu_slots_dropped_by_a_host_that_was_away_move_no_gear(
    tmp_path: Path, costs
) -> None:
    gears = {}
    for judged_by in ("latency", "gpu"):
        rig = Rig(tmp_path / judged_by, costs, judged_by=judged_by)
        rig.run(400)
        assert rig.fast.gear == 0
        # 200 us of 375: those after an absence are begun one after the other.
        rig.work["pdsch"] = 3200.0
        rig.run(5)
        rig.loop.close_window()
        rig.paced.clock.now_s += (MOST_BEHIND - 2) * SLOT_S
        rig.run(MOST_BEHIND)
        _, downlink = rig.loop.close_window()
        assert downlink.dropped > 0
        assert rig.loop.alarm
        gears[judged_by] = rig.fast.gear
    assert gears == {"latency": TOP, "gpu": 0}


def test_slots_keep_to_a_part_of_the_gpu_until_an_engine_answers(rig: Rig, monkeypatch) -> None:
    monkeypatch.setattr(gpu_slots, "ANSWER_NS", 0)
    # The plan gives the radio everything, and slots stay late: no pause helps where none is heard.
    rig.work["pusch"] = 200_000.0
    rig.loop.bound(TOP)
    rig.run(50)
    assert rig.fast.gear == rig.loop.gear == TOP - 1
    rig.board.acknowledge("ai", rig.board.current.generation)
    rig.loop.bound(0)
    rig.run(50)
    assert rig.fast.gear == rig.board.current.gear == TOP
    # Its steps under way are in a part of the GPU: slots on all of it would be among them.
    assert rig.loop.gear == TOP - 1
    rig.board.acknowledge("ai", rig.board.current.generation)
    rig.run(3)
    assert rig.loop.gear == rig.started_in()[-1] == TOP
    # An engine that is loaded in the place of one that has died hears of no pause.
    rig.board.acknowledge("ai", NO_ORDER)
    rig.run(3)
    assert rig.loop.gear == rig.started_in()[-1] == TOP - 1


def test_an_engine_that_is_loaded_answers_none_of_many_orders(rig: Rig, monkeypatch) -> None:
    monkeypatch.setattr(gpu_slots, "ANSWER_NS", 10**18)
    # However new the newest order is.
    rig.work["pusch"] = 200_000.0
    for tokens in range(1, 4):
        rig.board.order(TOP, tokens)
        rig.loop.bound(TOP)
        rig.run(5)
        assert rig.fast.gear == TOP - 1
    # One that runs may be behind the newest.
    first = rig.board.order(0, 7).generation
    rig.board.order(1, 8)
    rig.board.acknowledge("ai", first)
    rig.loop.bound(TOP)
    assert rig.fast.gear == TOP
    # Its successor follows none yet.
    monkeypatch.setattr(gpu_slots, "ANSWER_NS", 0)
    rig.board.acknowledge("ai", NO_ORDER)
    rig.loop.bound(TOP)
    assert rig.fast.gear == TOP - 1


# --- the board, the plan, the process


def test_a_board_that_is_alike_is_kept_for_the_engine_that_watches_it(tmp_path: Path) -> None:
    path = tmp_path / "board"
    first = board_of(path, FastPathSettings(GEARS, 132))
    assert first.gears == (Gear(16, 116), Gear(64, 68), Gear(132, 0))
    watched = SmBoard.open(path)
    board_of(path, FastPathSettings(GEARS, 132)).order(0, 7)
    assert (watched.current.gear, watched.current.step_tokens) == (0, 7)
    board_of(path, FastPathSettings((16, 132), 132)).order(1, 9)
    assert watched.current.step_tokens == 7
    path.write_text("no board")
    assert board_of(path, FastPathSettings(GEARS, 132)).current.gear == TOP


def test_the_plans_part_of_the_ran_is_the_lowest_gear() -> None:
    parts = (
        PartitionView(role="ran", sm_count=64),
        PartitionView(role="ai", sm_count=60),
        PartitionView(role="ran", sm_count=8, state="creating"),
    )
    assert ran_sms([GpuView(partitions=parts)]) == 64
    assert [least_gear(GEARS, sms) for sms in (0, 16, 63, 64, 131, 132)] == [0, 0, 0, 1, 1, 2]


@pytest.fixture
def gpu_site(tmp_path: Path) -> SiteConfig:
    given = {
        "AIRAN_STATE_DIR": str(tmp_path),
        "AIRAN_NODE__DRIVER": "nvml",
        "AIRAN_NODE__PARTITION": "green",
        "AIRAN_NODE__GPU": "H100-SXM5-80GB",
        "AIRAN_GPU__LAYER1": "gpu",
        "AIRAN_RAN__N_CELLS": "4",
        "AIRAN_RAN__SIZED_AS__N_PRB": "24",
        "AIRAN_RAN__SIZED_AS__N_LAYERS": "1",
    }
    return config.load(None, PORTS | given)


def test_the_process_is_an_mps_client_with_a_memory_limit_and_one_stands_by_outside(
    gpu_site: SiteConfig,
) -> None:
    runtime = site_runtime.resolve(gpu_site)
    layer1 = GpuLayer1(runtime)
    under, outside = layer1.keeper.places()
    assert under.environment == {
        "CUDA_MPS_PIPE_DIRECTORY": f"{gpu_site.state_dir}/mps/pipe",
        "CUDA_MPS_LOG_DIRECTORY": f"{gpu_site.state_dir}/mps/log",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=8192M",
    }
    # A process that found no daemon would compute without MPS and be taken for a client.
    assert not under.is_open()
    assert outside.is_open()
    assert outside.environment == {"CUDA_MPS_PIPE_DIRECTORY": f"{runtime.run_dir}/no-mps"}
    assert layer1.settings.gears == (16, 24, 40, 64, 80, 96, 132)
    assert layer1.settings.engine_sms == (116, 108, 88, 64, 48, 32, 0)


def test_reports_have_both_directions_counts_and_the_cells_measured_needs(
    gpu_site: SiteConfig,
) -> None:
    runtime = site_runtime.resolve(gpu_site)
    runtime.run_dir.mkdir(parents=True)
    layer1 = GpuLayer1(runtime)
    laws = {"pusch": lambda _: 100.0, "pdsch": lambda _: 50.0}
    paced = PacedGroup(layer1.radio, laws, decodes=False)
    loop = layer1.loop(paced.group)
    loop._now_s = paced.clock
    layer1.radio.loads = (1.0,) * 4
    loop.begin()
    for _ in range(51):
        loop.step()
    loop.alarm = True
    report = layer1.report(loop)
    assert (report.slots, report.slots_late, report.slots_dropped) == (50, 0, 0)
    assert report.alarm
    assert not loop.alarm
    assert report.budget_us == 1250.0
    assert report.slowdown == 1.0
    assert 100.0 <= report.p50_us < 200.0
    assert sum(report.histogram_counts) == 10
    assert len(report.cells) == 4
    assert all(cell.live and cell.n_prb == 24 for cell in report.cells)
    assert 0.0 < report.demand_share <= 1.0


def test_slots_run_until_nobody_hears_of_them_and_keep_to_the_plan_meanwhile(
    gpu_site: SiteConfig,
) -> None:
    class Heard:
        """Hears three reports."""

        ran_sms = 96

        def __init__(self) -> None:
            self.reports: list[SlotReport] = []

        def send(self, report: SlotReport) -> None:
            self.reports.append(report)

        @property
        def is_over(self) -> bool:
            return len(self.reports) == 3

    runtime = site_runtime.resolve(gpu_site)
    runtime.run_dir.mkdir(parents=True)
    layer1, heard = GpuLayer1(runtime), Heard()
    laws = {"pusch": lambda _: 10.0, "pdsch": lambda _: 5.0}
    loop = layer1.loop(PacedGroup(layer1.radio, laws, decodes=False).group)
    loop._now_s = loop._group.uplink._now_s
    layer1.run(loop, heard, threading.Event())  # type: ignore[arg-type]
    assert all(report.slots > 0 for report in heard.reports)
    # Without the plan such short slots would have brought it to gear 0.
    assert GEARS_OF_SITE[loop.gear] == 96
    assert loop._board.current.gear == loop.gear


def test_each_slot_has_a_record_that_other_processes_read(tmp_path: Path, costs: GearCosts) -> None:
    rig = Rig(tmp_path / "board", costs)
    rig.loop.journal = SlotJournal(tmp_path / "slots", 1000)
    reader = JournalReader(tmp_path / "slots")
    rig.run(26)
    rows = reader.take()
    assert Counter(rows["channel"].tolist()) == {0: 5, 1: 21}
    assert set(rows["fate"].tolist()) == {Fate.ON_TIME}
    assert all(0.0 < us < 1250.0 for us in rows["latency_us"].tolist())
    assert list(rows["end_s"]) == sorted(rows["end_s"])
    rig.radio.loads = (0.0, 0.0)
    rig.run(2)
    assert Fate.IDLE in reader.take()["fate"].tolist()
    # One that is late, and those that the host missed.
    rig.radio.loads = (1.0, 1.0)
    rig.work["pusch"] = 100_000.0
    rig.run(8)
    assert Fate.LATE in reader.take()["fate"].tolist()
    rig.paced.clock.now_s += (MOST_BEHIND + 30) * SLOT_S
    rig.run(1)
    assert Counter(reader.take()["fate"].tolist())[Fate.DROPPED] >= 30


def test_gears_fit_the_gpu_and_the_engine_decodes_as_many_sequences_as_it_has(
    gpu_site: SiteConfig,
) -> None:
    settings = fast_path_settings(gpu_site, 114)
    assert settings.gears == (16, 24, 40, 64, 80, 96, 114)
    assert settings.engine_sms == (98, 90, 74, 50, 34, 18, 0)
    assert settings.step.decode_tokens == gpu_site.model.max_concurrent
