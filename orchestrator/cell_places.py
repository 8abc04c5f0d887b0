"""Which GPU every cell runs on, and what each GPU's cells need of it.

The fleet planner places the cells by their peak need, so that a cell never has to move because of
its load; they are placed anew only when cells or GPUs come or go. What they need now is what
phy's measured cost model says of all the cells of a GPU together.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from airan.core.errors import CapacityError, InvalidInputError
from orchestrator.cell_demand import MEASURED, CellConfig, CellDemand, CellLoad
from orchestrator.mig import MigGeometry
from orchestrator.placement import Fleet, FleetCell, FleetGpu, place
from orchestrator.pool import Demand, Gpu, GpuDemand, Inventory
from orchestrator.store import Store
from orchestrator.views import CellView

_Wanted = tuple[tuple[tuple[str, CellConfig, str], ...], tuple[str, ...]]
_SITE = "site"
_KEY = "cell_places"
_MANY = 20


class CellPlaces:
    """Keeps every cell's GPU, in the store too. Cells of unknown configuration have none."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._gpu_of: dict[str, str] = dict(store.value(_KEY) or {})
        self._placed_for: _Wanted = ((), ())
        self._work: asyncio.Task[None] | None = None

    def update(self, cells: Sequence[CellView], inventory: Inventory) -> None:
        """Places the cells anew if cells or GPUs have come or gone: at once on a single GPU, else
        in a thread, which takes up to a second or two. A cell stays where it is unless its GPU
        is gone or in maintenance, or too many of its group are on one host."""
        if self._work is not None and not self._work.done():
            return
        known = tuple(sorted((cell for cell in cells if is_known(cell)), key=lambda one: one.id))
        gpus = [gpu for gpu in inventory.gpus if not gpu.drained and _model(gpu) is not None]
        wanted = (
            tuple((cell.id, config_of(cell), cell.group) for cell in known),
            tuple(sorted(gpu.uuid for gpu in gpus)),
        )
        if wanted == self._placed_for or not known or not gpus:
            return
        if len(gpus) == 1:
            self._take({cell.id: gpus[0].uuid for cell in known}, wanted)
        else:
            self._work = asyncio.create_task(self._place(known, gpus, wanted))

    async def settled(self) -> None:
        """Returns once no placing goes on."""
        if self._work is not None:
            await asyncio.wait({self._work})

    def _take(self, gpu_of: Mapping[str, str], wanted: _Wanted) -> None:
        self._placed_for = wanted
        if self._gpu_of != gpu_of:
            self._gpu_of = dict(gpu_of)
            self._store.set_value(_KEY, self._gpu_of)

    def gpu_of(self, cell_id: str) -> str:
        """The GPU on which a cell runs; empty if it has no place."""
        return self._gpu_of.get(cell_id, "")

    def split(self, demand: Demand, cells: Sequence[CellView], inventory: Inventory) -> Demand:
        """The demand with what each GPU's cells need; as it is while the cells' configuration is
        not known, or a cell has no place."""
        placed = [cell for cell in cells if is_known(cell) and self.gpu_of(cell.id)]
        if demand.assumed or not placed or len(placed) < len(cells):
            return demand
        gpus = {gpu.uuid: gpu for gpu in inventory.gpus}
        if any(self.gpu_of(cell.id) not in gpus for cell in placed):
            return demand
        # What the pool is expected to need more, each GPU by its number of cells.
        soon = max(0.0, demand.forecast_share - demand.now_share)
        sustained = max(soon, demand.sustained_share - demand.now_share)
        each = inventory.sm_count / len(placed)
        by_gpu = []
        for uuid, gpu in gpus.items():
            mine = [cell for cell in placed if self.gpu_of(cell.id) == uuid]
            if mine:
                sms, more = needed_sms(gpu, mine), each * len(mine)
                soon_sms, sustained_sms = (
                    min(gpu.geometry.sm_count, sms + math.ceil(growth * more - 1e-9))
                    for growth in (soon, sustained)
                )
                by_gpu.append(GpuDemand(uuid, sms, soon_sms, sustained_sms))
        return replace(demand, by_gpu=tuple(by_gpu))

    async def _place(self, cells: Sequence[CellView], gpus: Sequence[Gpu], wanted: _Wanted) -> None:
        reference = gpus[0]
        here = frozenset({_SITE})
        fleet = Fleet(
            gpus=tuple(
                FleetGpu(
                    gpu.uuid,
                    gpu.node,
                    _SITE,
                    gpu.geometry,
                    gpu.geometry.sm_count / reference.geometry.sm_count,
                )
                for gpu in gpus
            ),
            cells=tuple(
                FleetCell(
                    cell.id, peak_sms(reference, cell), here, cell.group, self.gpu_of(cell.id)
                )
                for cell in cells
            ),
        )
        found = await asyncio.to_thread(place, fleet)
        self._take(found.cells, wanted)


def is_known(cell: CellView) -> bool:
    """Whether the cell's configuration is reported, and one that was measured."""
    return cell.n_layers > 0 and _is_measured(config_of(cell))


def config_of(cell: CellView) -> CellConfig:
    """What of a reported cell its cost depends on."""
    return CellConfig(cell.n_prb, cell.n_layers, cell.n_rx, cell.uplink_mcs, cell.downlink_mcs)


def needed_sms(gpu: Gpu, cells: Sequence[CellView]) -> int:
    """SMs that these cells need together at their present load; all, if even they are too few."""
    model = _model(gpu)
    if model is None:
        return gpu.geometry.sm_count
    try:
        return model.sms(CellLoad(config_of(cell), cell.load) for cell in cells)
    except CapacityError:
        return gpu.geometry.sm_count


@functools.cache
def _peak_sms(product: str, sm_count: int, config: CellConfig) -> int:
    model = CellDemand.of(product, sm_count)
    count = _MANY
    while count > 1:
        try:
            return math.ceil(model.sms([CellLoad(config, 1.0)] * count) / count)
        except CapacityError:
            count //= 2
    try:
        return model.sms([CellLoad(config, 1.0)])
    except CapacityError:
        return sm_count


def peak_sms(gpu: Gpu, cell: CellView) -> int:
    """SMs that a fully loaded cell takes of a GPU which it shares with others of its kind."""
    return _peak_sms(gpu.product, gpu.geometry.sm_count, config_of(cell))


@functools.cache
def _is_measured(config: CellConfig) -> bool:
    product = next(iter(MEASURED))
    try:
        _peak_sms(product, MigGeometry.load(product).sm_count, config)
    except InvalidInputError:
        return False
    return True


@functools.cache
def _model_of(product: str, sm_count: int) -> CellDemand | None:
    try:
        return CellDemand.of(product, sm_count)
    except InvalidInputError:
        return None


def _model(gpu: Gpu) -> CellDemand | None:
    return _model_of(gpu.product, gpu.geometry.sm_count)
