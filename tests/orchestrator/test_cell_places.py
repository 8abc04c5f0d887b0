"""Where cells run, and what each GPU's cells need."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from airan.core.errors import InvalidInputError
from orchestrator.cell_demand import CellDemand, CellLoad
from orchestrator.cell_places import CellPlaces, config_of, needed_sms, peak_sms
from orchestrator.mig import MigGeometry
from orchestrator.plan import Demand, Gpu, Inventory
from orchestrator.ran import check_report
from orchestrator.store import Store
from orchestrator.views import CellView, SlotReport
from tests.orchestrator.site import Site

PRODUCT = "H100-SXM5-80GB"
GEOMETRY = MigGeometry.load(PRODUCT)
GPUS = tuple(Gpu(f"GPU-{n}", GEOMETRY, product=PRODUCT, node=f"host-{n // 2}") for n in range(4))
POOL = Inventory(GPUS)
DEMAND = Demand(0.2, 0.3, 0.4)


def cells(count: int, load: float = 1.0, per_mast: int = 3) -> tuple[CellView, ...]:
    return tuple(
        CellView(f"cell-{n}", False, load, 273, 4, 4, 27, 27, f"mast-{n // per_mast}")
        for n in range(count)
    )


@pytest.fixture
def store(tmp_path: Path):
    store = Store(tmp_path / "control.sqlite")
    yield store
    store.close()


async def placed(store: Store, some: tuple[CellView, ...], pool: Inventory = POOL) -> CellPlaces:
    places = CellPlaces(store)
    places.update(some, pool)
    await places.settled()
    return places


async def test_every_cell_gets_a_gpu_and_no_host_a_whole_mast(store: Store) -> None:
    some = cells(60)
    places = await placed(store, some)
    node_of = {gpu.uuid: gpu.node for gpu in GPUS}
    masts: dict[str, set[str]] = {}
    for cell in some:
        masts.setdefault(cell.group, set()).add(node_of[places.gpu_of(cell.id)])
    assert all(len(hosts) == 2 for hosts in masts.values())


async def test_what_a_gpu_needs_is_what_the_cost_model_says_of_its_cells(store: Store) -> None:
    some = cells(60, 0.7)
    places = await placed(store, some)
    split = places.split(DEMAND, some, POOL)
    model = CellDemand.of(PRODUCT, GEOMETRY.sm_count)
    assert {one.gpu_uuid for one in split.by_gpu} == {places.gpu_of(cell.id) for cell in some}
    for one in split.by_gpu:
        mine = [cell for cell in some if places.gpu_of(cell.id) == one.gpu_uuid]
        assert one.now_sms == model.sms(CellLoad(config_of(cell), 0.7) for cell in mine)
        assert one.now_sms < one.soon_sms < one.sustained_sms


async def test_the_forecast_growth_is_split_without_loss(store: Store) -> None:
    some = cells(12, 0.0)
    places = await placed(store, some)
    split = places.split(Demand(0.0, 0.25, 0.25), some, POOL)
    assert sum(one.now_sms for one in split.by_gpu) == 0
    assert sum(one.soon_sms for one in split.by_gpu) >= 0.25 * POOL.sm_count


async def test_load_moves_no_cell(store: Store) -> None:
    places = await placed(store, cells(40, 0.1))
    before = [places.gpu_of(cell.id) for cell in cells(40)]
    places.update(cells(40, 1.0), POOL)
    await places.settled()
    assert [places.gpu_of(cell.id) for cell in cells(40)] == before


async def test_cells_of_a_gpu_that_is_gone_run_elsewhere_and_the_others_stay(store: Store) -> None:
    some = cells(40)
    places = await placed(store, some)
    before = {cell.id: places.gpu_of(cell.id) for cell in some}
    lost = before["cell-0"]
    left = replace(POOL, gpus=tuple(gpu for gpu in GPUS if gpu.uuid != lost))
    assert places.split(DEMAND, some, left).by_gpu == (), "no place is known meanwhile"
    places.update(some, left)
    await places.settled()
    after = {cell.id: places.gpu_of(cell.id) for cell in some}
    assert lost not in after.values()
    moved = [cell for cell in before if after[cell] != before[cell]]
    assert len(moved) <= 1.2 * sum(gpu == lost for gpu in before.values())


async def test_a_gpu_in_maintenance_gets_no_cell(store: Store) -> None:
    pool = replace(POOL, gpus=(replace(GPUS[0], drained=True), *GPUS[1:]))
    places = await placed(store, cells(40), pool)
    assert GPUS[0].uuid not in {places.gpu_of(cell.id) for cell in cells(40)}


async def test_places_outlast_the_orchestrator(store: Store) -> None:
    places = await placed(store, cells(20))
    again = CellPlaces(store)
    assert [again.gpu_of(cell.id) for cell in cells(20)] == [
        places.gpu_of(cell.id) for cell in cells(20)
    ]


@pytest.mark.parametrize(
    "odd", [CellView("odd", False, 0.5, 51), CellView("odd", False, 0.5, 273, 7, 4, 27, 27)]
)
async def test_a_cell_of_unknown_or_unmeasured_configuration_leaves_the_pool_whole(
    store: Store, odd: CellView
) -> None:
    some = (*cells(5), odd)
    places = await placed(store, some)
    assert places.gpu_of("odd") == ""
    assert places.split(DEMAND, some, POOL) is DEMAND


async def test_gpus_without_a_cost_model_are_filled_by_the_reported_demand(store: Store) -> None:
    geometry = MigGeometry.load("A100-SXM4-80GB")
    pool = Inventory((Gpu("GPU-1", geometry, product="A100-SXM4-80GB"),))
    places = await placed(store, cells(5), pool)
    assert places.split(DEMAND, cells(5), pool) is DEMAND


def test_more_cells_than_a_gpu_carries_take_all_of_it() -> None:
    assert needed_sms(GPUS[0], cells(80)) == GEOMETRY.sm_count


def test_a_cell_among_many_takes_less_than_one_alone() -> None:
    assert peak_sms(GPUS[0], cells(1)[0]) < needed_sms(GPUS[0], cells(1))


@pytest.mark.parametrize("load", [-0.1, 1.1, float("nan")])
def test_an_impossible_load_is_refused(load: float) -> None:
    with pytest.raises(InvalidInputError, match=r"cells\.load"):
        check_report(SlotReport("cell-0", 1.0, cells=cells(1, load)))


async def test_the_ran_gets_its_partitions_where_its_cells_are(tmp_path: Path) -> None:
    site = Site(tmp_path, n_gpus=3)
    some = cells(45, 0.6)

    async def play(seconds: float) -> None:
        for _ in range(int(2 * seconds)):
            site.clock.advance(0.5)
            values = {"slots": 50, "budget_us": 1000.0, "pid": os.getpid(), "demand_share": 0.25}
            report = SlotReport("cell-0", site.clock.now_s(), cells=some, **values)  # type: ignore[arg-type]
            await site.control.take_report(report)
            await site.control.tick()
            await site.control.places.settled()
            await site.settle()

    await play(8.0)
    status = await site.control.status()
    used = {cell.gpu_uuid for cell in status.cells}
    assert len(used) in (1, 2), "no more GPUs than the cells need"
    await play(8.0)
    ran = {part.gpu_uuid for part in await site.node.instances() if part.uuid in ran_parts(site)}
    assert ran == used
    drained = min(used)
    await site.control.set_maintenance(drained, "new thermal paste", on=True)
    await play(12.0)
    status = await site.control.status()
    assert drained not in {cell.gpu_uuid for cell in status.cells}
    ran = {part.gpu_uuid for part in await site.node.instances() if part.uuid in ran_parts(site)}
    assert ran == {cell.gpu_uuid for cell in status.cells}
    await site.close()


def ran_parts(site: Site) -> set[str]:
    return {uuid for uuid, role in site.store.roles().items() if role == "ran"}
